// What a Go program with C in it has to do about signals, tracebacks and threads. The argument says which.
package main

/*
#include <stdint.h>
void call_back(void);
void fault(void);
int raise_from_c(void);
int raise_from_thread(void);
int call_back_from_thread(void);
*/
import "C"

import (
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"runtime/pprof"
	"strings"
	"syscall"
	"time"
)

var names []string

//export goCallback
func goCallback() {
	pcs := make([]uintptr, 64)
	frames := runtime.CallersFrames(pcs[:runtime.Callers(0, pcs)])
	names = nil
	for more := true; more; {
		var frame runtime.Frame
		frame, more = frames.Next()
		names = append(names, frame.Function)
	}
}

func fail(format string, values ...any) {
	fmt.Printf(format+"\n", values...)
	os.Exit(1)
}

// callers: the stack goes from the callback through C to the function that called it.
func callers() {
	C.call_back()
	wanted := []string{
		"main.goCallback", "_cgoexp_", "runtime.cgocallbackg1", "runtime.cgocallbackg", "runtime.cgocallback", "runtime.cgocall",
		"main._Cfunc_call_back", "main.callers", "main.main",
	}
	for _, name := range names {
		if len(wanted) > 0 && strings.HasPrefix(name, wanted[0]) {
			wanted = wanted[1:]
		}
	}
	if len(wanted) > 0 {
		fail("%s is not found in %v", wanted[0], names)
	}
}

type node struct{ next *node }

// dereference: a null pointer in Go is a panic that can be recovered from, in a callback as well.
func dereference(p *node) (message string) {
	defer func() { message = fmt.Sprint(recover()) }()
	return fmt.Sprint(p.next.next)
}

// notify: a signal arrives on a channel, whoever raised it.
func notify(raise func()) {
	arrived := make(chan os.Signal, 1)
	signal.Notify(arrived, syscall.SIGUSR1)
	for range [20]int{} {
		raise()
		select {
		case <-arrived:
		case <-time.After(10 * time.Second):
			fail("no signal arrived")
		}
	}
}

func main() {
	switch os.Args[1] {
	case "callers":
		callers()
	case "dereference":
		if message := dereference(nil); !strings.Contains(message, "nil pointer dereference") {
			fail("recovered: %s", message)
		}
	case "fault in Go":
		var p *node
		fmt.Println(p.next)
	case "fault in C", "forward":
		C.fault()
	case "notify Go":
		notify(func() {
			if err := syscall.Kill(syscall.Getpid(), syscall.SIGUSR1); err != nil {
				fail("%v", err)
			}
		})
	case "notify C":
		notify(func() {
			if C.raise_from_c() != 0 {
				fail("raise")
			}
		})
	case "notify thread":
		notify(func() {
			if C.raise_from_thread() != 0 {
				fail("pthread_create")
			}
		})
	case "threads":
		// Each thread of C's calls back and ends. What Go made for one serves the next.
		for i := 0; i < 50; i++ {
			names = nil
			if C.call_back_from_thread() != 0 {
				fail("pthread_create")
			}
			if len(names) == 0 || !strings.HasSuffix(names[1], "goCallback") {
				fail("%d: %v", i, names)
			}
		}
		if made := pprof.Lookup("threadcreate").Count(); made > 25 {
			fail("%d threads are known to Go, after 50 of C's that ended", made)
		}
	}
	fmt.Println("done")
}
