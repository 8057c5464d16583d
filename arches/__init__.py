"""One module per architecture family: registers, conventions, lowering."""
