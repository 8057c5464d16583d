// A Windows program called go.exe or gcc.exe, which has the host's program of that name run: it leaves its arguments in
// a file, and waits for another with what came out.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

type request struct {
	Program, Directory string
	Words, Environment []string
}

type reply struct {
	Status         int
	Output, Errors string
}

func main() {
	directory, err := os.Getwd()
	fail(err)
	name := strings.TrimSuffix(strings.ToLower(filepath.Base(os.Args[0])), ".exe")
	asked, err := json.Marshal(request{name, directory, os.Args[1:], os.Environ()})
	fail(err)
	base := filepath.Join(os.Getenv("FORWARD"), fmt.Sprintf("%d-%d", os.Getpid(), time.Now().UnixNano()))
	fail(os.WriteFile(base+".part", asked, 0o666))
	fail(os.Rename(base+".part", base+".request"))
	for begun := time.Now(); time.Since(begun) < 5*time.Minute; time.Sleep(20 * time.Millisecond) {
		text, err := os.ReadFile(base + ".reply")
		if err != nil {
			continue
		}
		var got reply
		fail(json.Unmarshal(text, &got))
		fmt.Fprint(os.Stdout, got.Output)
		fmt.Fprint(os.Stderr, got.Errors)
		os.Exit(got.Status)
	}
	fail(fmt.Errorf("%s: nobody answers", name))
}

func fail(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(125)
	}
}
