"""What gcc makes of C keeps its conventions: machine code that nobody here wrote, of whole files, before and after
linking, on every Linux target."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from cross import compiler
from test_audit import ELF, by_name
from tools import need

from trampoline_dsl import compile_text
from trampoline_dsl.audit import audit
from trampoline_dsl.binary import read_image
from trampoline_dsl.image import definitions
from trampoline_dsl.target import Target

PROGRAM = """
struct point { int x; long long y; };
extern long long helper(int a, long long b);
extern float mix(double a, float b, unsigned char c);
extern unsigned long long total;
static int counter;
unsigned long long own = 7;
static const char *const names[] = {"zero", "one", "two", "three"};
__attribute__((noinline)) static long long local(struct point *p, int n)
{
    counter += n;
    return helper(n, p->y) + names[n & 3][0];
}
long long work(struct point *p, int n, double f, short s, float g)
{
    long long sum = 0;
    switch (n & 7) {
    case 0: sum = helper(n, 1); break;
    case 1: sum = helper(n + 1, p->y); break;
    case 2: sum = local(p, n); break;
    case 3: total += n; break;
    case 4: own += n; sum = own; break;
    case 5: sum = mix(f, g, s) != 2; break;
    case 6: p->x = n; sum = (long long)(long)helper; break;
    default: sum = -1;
    }
    p->y = sum;
    volatile char room[40];
    for (int i = 0; i < 40; i++) room[i] = n;
    return sum + helper(room[s & 31], s);
}
short narrow(unsigned char a, signed char b) { return a + b + (short)helper(a, b); }
long long tail(int a) { return helper(a + 1, a); }
"""
CONTRACT = """
struct point { x: i32 y: i64 }
extern helper(a: i32, b: i64) -> i64 using c
extern mix(a: f64, b: f32, c: u8) -> f32 using c
extern total: u64
extern own: u64
extern counter: u32
trampoline work(p: ptr<point>, n: i32, f: f64, s: i16, g: f32) -> i64 using c writes p, total, own, counter
trampoline narrow(a: u8, b: i8) -> i16 using c
trampoline tail(a: i32) -> i64 using c
""" + "\n".join(f'check work "{n}" {{ given {{ n = {n} }} }}' for n in range(8))
MODES = {  # to the baselines of the targets
    "arm": ("-marm", "-mfpu=vfpv3-d16"),
    "ppc64": ("-mcpu=power8",),
    "s390x": ("-march=z13",),
}
WAYS = {
    "-O0": ("-c", "-O0"),
    "-O2": ("-c", "-O2"),
    "shared": ("-shared", "-O2", "-fPIC", "-nostdlib", "-Wl,--unresolved-symbols=ignore-all"),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("target", ELF, ids=by_name)
def test_gcc_keeps_its_conventions(target: Target, way: str, tmp_path: Path) -> None:
    architecture = target.architecture
    gcc = need(compiler(target.name))
    modes = [*MODES.get(architecture.family, ()), *(o for o in architecture.gnu_as if o.startswith("-march=mips"))]
    (tmp_path / "program.c").write_text(PROGRAM)
    made = tmp_path / "program.o"
    command = [gcc, *modes, *WAYS[way], "-ffreestanding", "-o", str(made), str(tmp_path / "program.c")]
    subprocess.run(command, check=True, timeout=60)
    image = read_image(made.read_bytes(), "program.o")
    compiled = compile_text(CONTRACT, target)
    symbols = definitions(image, compiled.program.own_contracts)
    verdicts = {v.trampoline: v for v in audit(image, symbols, compiled, runs=2)}
    assert set(verdicts) == {"work", "narrow", "tail"}
    for verdict in verdicts.values():
        assert not verdict.violations
        problems = {f.reason for f in verdict.obligations.values() if f.state == "not run"}
        assert all("never ran" in problem for problem in problems), problems
    if way != "shared":
        assert any(name.startswith("local") for name in verdicts["work"].helpers)
