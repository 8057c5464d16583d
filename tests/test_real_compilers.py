"""Trampolines between C code of the real cross compilers, run by qemu-user: nothing of this project judges here.

A C program calls trampolines that reorder arguments of every kind, call back into C by name and through a pointer,
and switch stacks. The C side, compiled with optimisation, keeps values in every register that it can across the calls.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from cross import MACHINES, need_machine

from trampoline_dsl import compile_text, default_targets

SOURCE = """
struct stack { low: ptr  top: uptr  argument: i64 }

extern sink(a: i8, b: f64, c: u16, d: i64, e: f32, f: ptr, g: i32, h: f64, i: u8, j: i64, k: f32, l: i16, m: u32,
            n: f64) -> i64 using c
extern on_other_stack(x: i64, y: f64) -> i64 using c

# Every argument comes in another place than it goes to.
trampoline reorder(n: f64, m: u32, l: i16, k: f32, j: i64, i: u8, h: f64, g: i32, f: ptr, e: f32, d: i64, c: u16,
                   b: f64, a: i8) -> i64 using c {
    let r = call sink(a, b, c, d, e, f, g, h, i, j, k, l, m, n)
    return r + 1
}

trampoline through(f: ptr, x: i32, y: f64, z: f32) -> f64 using c {
    let r = call f(z, y, x) using c -> f64
    return r
}

trampoline switch_stack(s: ptr<stack>, x: i64, y: f64) -> i64 using c {
    let top = s.top & -64
    let result = s.argument
    on stack top {
        let r = call on_other_stack(x + result, y)
        result = r
    }
    return result
}
"""

PROGRAM = """
typedef signed char i8; typedef unsigned char u8; typedef short i16; typedef unsigned short u16;
typedef int i32; typedef unsigned u32; typedef long long i64;
i64 reorder(double, u32, i16, float, i64, u8, double, i32, void *, float, i64, u16, double, i8);
double through(double (*)(float, double, i32), i32, double, float);
struct stack { void *low; void *top; i64 argument; };
i64 switch_stack(struct stack *, i64, double);

static int wrong;
static char mark;
#define CHECK(x) do { if (!(x)) wrong = __LINE__; } while (0)

i64 sink(i8 a, double b, u16 c, i64 d, float e, void *f, i32 g, double h, u8 i, i64 j, float k, i16 l, u32 m, double n)
{
    CHECK(a == -7); CHECK(b == 2.5); CHECK(c == 0xfffe); CHECK(d == -0x123456789abcdefLL); CHECK(e == 1.25f);
    CHECK(f == &mark); CHECK(g == -70000); CHECK(h == -9.75); CHECK(i == 250); CHECK(j == 0x7edcba9876543210LL);
    CHECK(k == -0.5f); CHECK(l == -30000); CHECK(m == 0xfedcba98u); CHECK(n == 1e100);
    return d ^ j;
}

static double callee(float z, double y, i32 x)
{
    CHECK(z == 3.5f); CHECK(y == -1.5); CHECK(x == -12);
    return z + y + x;
}

static char *low, *high;
i64 on_other_stack(i64 x, double y)
{
    char here;
    CHECK(&here > low && &here < high); CHECK(y == 0.125);
    volatile char room[256];
    for (int i = 0; i < 256; i++) room[i] = (char)i;
    return x * 3 + room[5];
}

/* Many values live across each call, in whatever registers the compiler has. */
__attribute__((noinline))
static double busy(int n, double a, double b, double c, double d, double e, double f, double g)
{
    int i1 = n + 1, i2 = n * 3, i3 = n ^ 5, i4 = n << 2, i5 = n - 9, i6 = n | 16, i7 = n % 7, i8_ = n + 77, i9 = n * n;
    double s = 0;
    static char memory[65536];
    low = memory; high = memory + sizeof memory;
    struct stack other = { memory, high - 16, 1000 };
    for (int k = 0; k < 3; k++) {
        i64 r = reorder(1e100, 0xfedcba98u, -30000, -0.5f, 0x7edcba9876543210LL, 250, -9.75, -70000, &mark, 1.25f,
                        -0x123456789abcdefLL, 0xfffe, 2.5, -7);
        CHECK(r == (-0x123456789abcdefLL ^ 0x7edcba9876543210LL) + 1);
        CHECK(through(callee, -12, -1.5, 3.5f) == -10.0);
        CHECK(switch_stack(&other, -70000000000LL, 0.125) == (-70000000000LL + 1000) * 3 + 5);
        s += a * i1 + b * i2 + c * i3 + d * i4 + e * i5 + f * i6 + g * i7 + i8_ + i9;
        a += 1; b += 2; c += 3; d += 4; e += 5; f += 6; g += 7;
        i1++; i2 += 2; i3 += 3; i4 += 4; i5 += 5; i6 += 6; i7 += 7; i8_ += 8; i9 += 9;
    }
    return s;
}

int main(void)
{
    double s = busy(12, 1, 2, 3, 4, 5, 6, 7);
    CHECK(s == EXPECTED);
    return wrong ? 1 + wrong % 200 : 0;
}
"""


def expected() -> float:
    """What `busy` computes, without any calls in between."""
    n = 12
    i = [n + 1, n * 3, n ^ 5, n << 2, n - 9, n | 16, n % 7, n + 77, n * n]
    f = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]
    total = 0.0
    for _ in range(3):
        total += sum(x * y for x, y in zip(f, i, strict=False)) + i[7] + i[8]
        f = [x + step for step, x in enumerate(f, 1)]
        i = [x + step for step, x in enumerate(i, 1)]
    return total


def execute(target: str, folder: Path, program: str, *more: str, options: Sequence[str]) -> CompletedProcess[str]:
    """Build a static program of C and of other sources in a folder, and run it."""
    machine = need_machine(target)
    (folder / "program.c").write_text(program, "utf-8")
    command = [machine.compiler, *options, "-static", "-o", "program", "program.c", *more]
    built = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    assert "executable stack" not in built.stderr
    done = [*machine.runner, "./program"]
    return subprocess.run(done, cwd=folder, capture_output=True, text=True, check=False, timeout=60)


def test_every_target_on_linux_has_a_runner() -> None:
    assert list(MACHINES) == [target.name for target in default_targets() if target.os == "linux"]


@pytest.mark.parametrize("level", ["-O0", "-O2"])
@pytest.mark.parametrize("target", MACHINES)
def test_c_on_both_sides(target: str, level: str, tmp_path: Path) -> None:
    (tmp_path / "trampolines.s").write_text(compile_text(SOURCE, target).text, "utf-8")
    program = PROGRAM.replace("EXPECTED", repr(expected()))
    result = execute(target, tmp_path, program, "trampolines.s", options=[level, "-w"])
    assert result.returncode == 0, f"the check near line {result.returncode - 1} (modulo 200) failed"


# ------------------------------------------------------------------------------------------------------- system calls

SYSTEM_CALLS = """
# A call of any number, and one whose arguments are six: some are in memory where registers are few.
trampoline call_kernel(number: uptr, a: uptr, b: uptr) -> uptr using c { return syscall number(a, b) }

const SYS_sendto {
    when amd64 { 44 }
    when arm { 290 }
    when arm64 { 206 }
    when ppc64, ppc64le { 335 }
    when mips, mipsle { 4180 }
    when mips64, mips64le { 5043 }
    else { 369 }
}

trampoline send_all(fd: i32, data: ptr, size: uptr, flags: i32, to: ptr, length: u32) -> uptr using c {
    let kept = fd as uptr + size * 3
    let answer = syscall SYS_sendto(fd, data, size, flags, to, length)
    if kept != fd as uptr + size * 3 { return 0 }
    return answer
}
"""

KERNEL_PROGRAM = """
#include <errno.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>
long my_write(int, const void *, unsigned long);
long call_kernel(unsigned long, unsigned long, unsigned long);
long send_all(int, const void *, unsigned long, int, void *, unsigned);
#define CHECK(x) do { if (!(x)) return 1 + __LINE__ % 200; } while (0)

int main(void)
{
    char text[8] = "0123456", back[8];
    int ends[2], sockets[2];
    CHECK(pipe(ends) == 0 && socketpair(AF_UNIX, SOCK_STREAM, 0, sockets) == 0);
    errno = 0;
    CHECK(my_write(ends[1], text, 7) == 7 && errno == 0);
    CHECK(read(ends[0], back, 8) == 7 && back[0] == '0' && back[6] == '6');
    CHECK(my_write(-1, text, 7) == -1 && errno == EBADF);
    CHECK(my_write(ends[1], (void *)8, 7) == -1 && errno == EFAULT);
    CHECK(call_kernel(SYS_getpid, 0, 0) == getpid());
    CHECK(call_kernel(SYS_close, 1000, 0) == -EBADF);
    CHECK(call_kernel(3999, 0, 0) == -ENOSYS);
    CHECK(send_all(sockets[0], text + 1, 5, MSG_DONTWAIT, 0, 0) == 5);
    CHECK(read(sockets[1], back, 8) == 5 && back[0] == '1' && back[4] == '5');
    CHECK(send_all(ends[1], text, 7, 0, 0, 0) == -ENOTSOCK);
    return 0;
}
"""


@pytest.mark.parametrize("target", MACHINES)
def test_the_kernel_answers_as_the_source_says(target: str, tmp_path: Path) -> None:
    """Results and failures of real system calls: -errno, also on machines that tell a failure otherwise."""
    example = (Path(__file__).parent.parent / "examples" / "c" / "system_call.tramp").read_text("utf-8")
    (tmp_path / "example.s").write_text(compile_text(example, target).text, "utf-8")
    (tmp_path / "more.s").write_text(compile_text(SYSTEM_CALLS, target).text, "utf-8")
    result = execute(target, tmp_path, KERNEL_PROGRAM, "example.s", "more.s", options=["-O2", "-w"])
    assert result.returncode == 0, f"the check in line {result.returncode - 1} (modulo 200) failed"


# -------------------------------------------------------------------------------------------- calls that return twice

RETURNS_TWICE = """
struct jump_buffer { unsigned long sp, kept[80]; };
int set_jump(struct jump_buffer *) __attribute__((returns_twice));
void long_jump(struct jump_buffer *, int) __attribute__((noreturn));

static struct jump_buffer buffer;
static volatile int times;
static volatile double sink;

__attribute__((noinline)) static void deep(int depth, double x)
{
    volatile char room[200];
    room[0] = (char) depth;
    sink = x * depth;
    if (depth)
        deep(depth - 1, x + room[0]);
    else
        long_jump(&buffer, times - 1);
}

int main(void)
{
    double a = 1.5, b = 2.5, a0, b0;
    for (int i = 0; i < 3; i++) { a += sink + i; b *= 2; }
    a0 = a; b0 = b;
    int came = set_jump(&buffer);
    int wanted = times < 2 ? times : times - 1;    /* 0 at first, then 1 for 0, 1, 2, 3 */
    if (came != wanted || a != a0 || b != b0)
        return 1 + times;
    if (++times < 5)
        deep(times, 3.0);
    return 0;
}
"""


@pytest.mark.parametrize("target", MACHINES)
def test_calls_return_twice_in_c(target: str, tmp_path: Path) -> None:
    source = (Path(__file__).parent.parent / "examples" / "c" / "set_jump.tramp").read_text("utf-8")
    (tmp_path / "trampolines.s").write_text(compile_text(source, target).text, "utf-8")
    result = execute(target, tmp_path, RETURNS_TWICE, "trampolines.s", options=["-O2"])
    assert result.returncode == 0, f"after {result.returncode - 1} returns"
