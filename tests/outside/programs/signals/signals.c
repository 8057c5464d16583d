#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "_cgo_export.h"

void call_back(void) { goCallback(); }

void fault(void) { *(volatile int *)8 = 1; }

int raise_from_c(void) { return raise(SIGUSR1); }

static int in_thread(void *(*function)(void *)) {
	pthread_t thread;
	return pthread_create(&thread, NULL, function, NULL) || pthread_join(thread, NULL);
}

static void *raises(void *unused) { return raise(SIGUSR1) ? unused : NULL; }

int raise_from_thread(void) { return in_thread(raises); }

static void *calls(void *unused) {
	int i;
	for (i = 0; i < 3; i++) goCallback();
	return unused;
}

int call_back_from_thread(void) { return in_thread(calls); }

// A handler that was there before Go: Go passes on to it what is not Go's.
static void handler(int number, siginfo_t *info, void *context) {
	static const char said[] = "forwarded\n";
	(void)context;
	// s390x tells the page only.
	if (number == SIGSEGV && (uintptr_t)info->si_addr < 4096 && write(1, said, sizeof said - 1) > 0) _exit(42);
	_exit(43);
}

__attribute__((constructor)) static void before_go(void) {
	struct sigaction action;
	if (getenv("SIGNALS_FORWARD") == NULL) return;
	memset(&action, 0, sizeof action);
	action.sa_sigaction = handler;
	action.sa_flags = SA_SIGINFO | SA_ONSTACK;
	sigaction(SIGSEGV, &action, NULL);
}
