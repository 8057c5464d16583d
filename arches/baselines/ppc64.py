"""ppc64: what is beyond the baselines."""

from __future__ import annotations

from trampoline_dsl.target import Extensions

# Power ISA, version 3.0B, book I, appendix "Power ISA Instruction Set Sorted by Version": "v3.0". For embedded
# machines: version 2.07, "Embedded.External PID", "Embedded.Performance Monitor", "Embedded Cache Locking".
# Version 3.1, by the extended operation codes under the primary one 31: cntlzdm, brw, pdepd, xxmfacc and its like, brd,
# pextd, brh, cfuged, lxvpx, setbc, setbcr, setnbc, stxvpx, setnbcr, cnttzdm.
_POWER10 = (59, 155, 156, 177, 187, 188, 219, 220, 333, 384, 416, 448, 461, 480, 571)
POWER8 = Extensions(
    {"booke": "Book E", "ppc4xx": "PowerPC 4xx", "ppc6xx": "PowerPC 6xx", "e500": "e500", "spe": "SPE", "qpx": "QPX"},
    (
        (r"addpcis |cmp(rb|eqb) |cnttz[dw]\.? |extswsli\.? |madd(hdu?|ld) |mod[su][dw] |setb |mcrxrx |darn ", "POWER9"),
        (r"(copy|paste\.?|cp_abort|slbsync|slbieg|stop|msgsync|(l|st)[wd]at)\b", "POWER9"),
        (r"(lxv|stxv)(x|b16x|h8x|ll?|wsx)? |(lxs|stxs)(d|sp|ibz?x|ihz?x) |m[tf]vsr(dd|ld|ws) ", "POWER9"),
        (r"mffs(ce|cdrni?|crni?|l) ", "POWER9"),
        (r"bcd(cfn|cfz|ctn|ctz|cfsq|ctsq|cpsgn|setsgn|u?s|sr|u?trunc)\. ", "POWER9"),
        (r"v(absdu[bhw]|bpermd|clzlsbb|ctzlsbb|ctz[bhwd]|cmpnez?[bhw]\.?|permr|prtyb[dqw]|s[lr]v|neg[dw]) ", "POWER9"),
        (r"v(extract(d|ub|uh|uw)|exts[bhw]2[dw]|extu[bhw][lr]x|insert[bhwd]|mul10\w+|rl[dw](mi|nm)) ", "POWER9"),
        (r"xs\w+qpo? |xs(rqpix?|rqpxp|cvqp\w+|cv[su]\w+qp|cmp(eq|ge|gt)dp|cmpexp\w+|cvdphp|cvhpdp) ", "POWER9"),
        (
            r"xs((max|min)[cj]dp|iexp\w+|tstdc\w+|x(exp|sig)\w+) |xv(cvhpsp|cvsphp|iexp\w+|tstdc\w+|x(exp|sig)\w+) ",
            "POWER9",
        ),
        (r"xx(br[dhqw]|extractuw|insertw|permr?|spltib) ", "POWER9"),
        (r"(dcb\w+ep|[ls]\w+epx|icbiep|icb(lc|lq\.|tls)) |m[tf]pmr ", "embedded machines"),
        (r"m[tf]sr(in)? ", "32-bit machines"),
    ),
    words=(
        (0xFC000000, 0x04000000, "POWER10, with a prefix"),
        (0xFC000000, 0x18000000, "POWER10"),  # lxvp, stxvp
        *((0xFC0007FE, 0x7C000000 | number << 1, "POWER10") for number in _POWER10),
        (0xFC000003, 0x44000001, "POWER9"),  # scv
        (0xFC0001FE, 0x7C000154, "POWER9"),  # addex
    ),
    complete=False,
)
