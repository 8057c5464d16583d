// A program with crosscall2 and cgocallback in it: Go calls C, and C calls Go.
package main

// typedef void (*callback)(int);
// extern void goCallback(int);
// static void call(int n) { goCallback(n); }
import "C"

//export goCallback
func goCallback(n C.int) { println("called", int(n)) }

func main() { C.call(7) }
