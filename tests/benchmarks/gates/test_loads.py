"""Bytes under way are counted as the hardware would have them: until somebody has to wait."""

from benchmarks.gates.loads import bytes_under_way, bytes_under_way_amd

FOUR_LOADS = [
    "LDG.E.128 R4, desc[UR4][R2.64] ",
    "LDG.E.128 R8, desc[UR4][R2.64+0x800] ",
    "@!P0 LDG.E.128 R12, desc[UR4][R2.64+0x1000] ",
    "LDG.E.128 R16, desc[UR4][R2.64+0x1800] ",
    "IADD3 R2, P0, R2, 0x2000, RZ ",
]


def test_loads_are_under_way_until_one_of_their_registers_is_needed():
    assert bytes_under_way([*FOUR_LOADS, "FADD R20, R4, R8 ", "FADD R21, R16, R12 "]) == 64
    # Whoever waits for the second has the first as well, and nothing is loaded in the meantime.
    early = [
        "LDG.E.128 R4, desc[UR4][R2.64] ",
        "FADD R20, R5, R20 ",
        "LDG.E.128 R8, desc[UR4][R2.64] ",
        "MUFU.EX2 R9, R8 ",
    ]
    assert bytes_under_way(early) == 16
    # Loaded for the next turn, at the end of this one, while half of this one's are still under way.
    ahead = [
        "FADD R20, R4, R20 ",
        "LDG.E.128 R4, desc[UR4][R2.64] ",
        "FADD R20, R8, R20 ",
        "LDG.E.64 R8, desc[UR4][R2.64] ",
    ]
    assert bytes_under_way(ahead) == 24


def test_copies_into_shared_memory_are_under_way_until_their_group_is_waited_for():
    copies = ["LDGSTS.E.BYPASS.128 [R3], desc[UR4][R2.64] ", "LDGSTS.E.BYPASS.128 [R3+0x800], desc[UR4][R2.64] "]
    stages_of_three = ["DEPBAR.LE SB0, 0x1 ", "LDS.128 R4, [R6] ", *copies, "LDGDEPBAR "]
    assert bytes_under_way(stages_of_three) == 2 * 32
    assert bytes_under_way(["DEPBAR.LE SB0, 0x0 ", *copies, "LDGDEPBAR "]) == 32


def test_on_amd_a_wait_says_how_many_accesses_may_be_left():
    loads = [f"global_load_dwordx4 v[{4 * i}:{4 * i + 3}], v[0:1], off offset:{16 * i}" for i in range(4)]
    assert bytes_under_way_amd([*loads, "s_waitcnt vmcnt(3)", "v_exp_f32_e32 v0, v1", "s_waitcnt vmcnt(0)"]) == 64
    stored = [
        "global_load_dwordx2 v[0:1], v[2:3], off",
        "global_store_dwordx4 v[2:3], v[4:7], off",
        "s_waitcnt vmcnt(1)",
    ]
    assert bytes_under_way_amd(stored) == 8
