// The PTX interpreter on PTX written here: what instructions compute, and that all that is not
// known is refused.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>
#include <vector>

#include "ptx/machine.h"
#include "ptx/module.h"
#include "simt/fault.h"  // KernelFault

namespace ballot::ptx {
namespace {

std::vector<std::uint64_t> memory(64);  // the one allocation

bool find(const void* address, simt::Allocation& found) {
  const auto* begin = reinterpret_cast<const std::byte*>(memory.data());
  found = {begin, memory.size() * 8};
  return address >= begin && address < begin + memory.size() * 8;
}

std::string entry(const std::string& body) {
  return ".version 9.0\n.target sm_80\n.address_size 64\n"
         ".visible .entry t(\n.param .u64 p\n)\n.maxntid 64, 1, 1\n{\n"
         ".reg .pred %p<9>; .reg .b16 %rs<9>; .reg .b32 %r<9>; .reg .b64 %rd<9>;\n"
         ".reg .f32 %f<9>; .reg .f64 %fd<9>;\n"
         "ld.param.u64 %rd0, [p];\n" +
         body + "\nret;\n}\n";
}

void run(const std::string& body, unsigned threads = 32) {
  const Module module = parse_module(entry(body), "test.ptx");
  ModuleMemory variables;
  const Program program = make_program(module, module.entries.at("t"), variables);
  simt::Launch launch;
  launch.grid = dim3(1);
  launch.block = dim3(threads);
  std::uint64_t* pointer = memory.data();
  simt::Parameter parameter{std::vector<std::byte>(8), true};
  std::memcpy(parameter.bytes.data(), &pointer, 8);
  launch.parameters = {parameter};
  simt::set_find_allocation(find);
  Machine(program, launch).run();
}

// The result of one instruction whose operands are given as immediates or bits.
std::uint64_t result_of(const std::string& opcode, char type, std::vector<std::string> operands) {
  const std::map<char, std::pair<std::string, std::string>> registers{
      {'h', {"%rs1", "u16"}}, {'r', {"%r1", "u32"}},  {'d', {"%rd1", "u64"}},
      {'f', {"%f1", "f32"}},  {'g', {"%fd1", "f64"}}, {'p', {"%p1", "pred"}}};
  const auto& [name, store] = registers.at(type);
  std::string text = opcode + " " + name;
  for (const std::string& operand : operands) text += ", " + operand;
  memory.assign(64, 0);
  // One thread only: 32 would write the same word.
  std::string body =
      "mov.u32 %r8, %tid.x;\nsetp.ne.s32 %p8, %r8, 0;\n@%p8 bra $end;\n" + text + ";\n";
  if (type == 'p')
    body += "selp.u32 %r2, 1, 0, %p1;\nst.global.u32 [%rd0], %r2;\n";
  else
    body += "st.global." + store + " [%rd0], " + name + ";\n";
  run(body + "$end:");
  return memory[0];
}

std::string bits(float x) {
  return fmt::format("0f{:08X}", std::bit_cast<std::uint32_t>(x));
}
std::string bits(double x) {
  return fmt::format("0d{:016X}", std::bit_cast<std::uint64_t>(x));
}
float f32(std::uint64_t word) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(word));
}
double f64(std::uint64_t word) {
  return std::bit_cast<double>(word);
}

TEST(PtxInstructions, Integers) {
  EXPECT_EQ(result_of("add.s32", 'r', {"-1", "1"}), 0u);
  EXPECT_EQ(result_of("sub.s64", 'd', {"3", "5"}), static_cast<std::uint64_t>(-2));
  EXPECT_EQ(result_of("mul.lo.s32", 'r', {"-3", "7"}), 0xffffffebu);
  EXPECT_EQ(result_of("mul.hi.u32", 'r', {"0xffffffff", "0xffffffff"}), 0xfffffffeu);
  EXPECT_EQ(result_of("mul.hi.s32", 'r', {"-1", "1"}), 0xffffffffu);
  EXPECT_EQ(result_of("mul.hi.u64", 'd', {"-1", "-1"}), 0xfffffffffffffffeu);
  EXPECT_EQ(result_of("mul.wide.s32", 'd', {"-2", "3"}), static_cast<std::uint64_t>(-6));
  EXPECT_EQ(result_of("mul.wide.u32", 'd', {"-2", "3"}), 0x2fffffffau);
  EXPECT_EQ(result_of("mul.wide.u16", 'r', {"0xffff", "0xffff"}), 0xfffe0001u);
  EXPECT_EQ(result_of("mad.lo.s32", 'r', {"5", "6", "-31"}), 0xffffffffu);
  EXPECT_EQ(result_of("mad.wide.s32", 'd', {"-1", "5", "7"}), 2u);
  EXPECT_EQ(result_of("div.s32", 'r', {"-7", "2"}), static_cast<std::uint32_t>(-3));
  EXPECT_EQ(result_of("rem.s32", 'r', {"-7", "2"}), static_cast<std::uint32_t>(-1));
  EXPECT_EQ(result_of("div.u64", 'd', {"-1", "10"}), 0xffffffffffffffffu / 10);
  EXPECT_EQ(result_of("neg.s32", 'r', {"5"}), static_cast<std::uint32_t>(-5));
  EXPECT_EQ(result_of("abs.s64", 'd', {"-5"}), 5u);
  EXPECT_EQ(result_of("min.s32", 'r', {"-1", "1"}), 0xffffffffu);
  EXPECT_EQ(result_of("min.u32", 'r', {"-1", "1"}), 1u);
  EXPECT_EQ(result_of("max.s64", 'd', {"-1", "1"}), 1u);
}

TEST(PtxInstructions, Bits) {
  EXPECT_EQ(result_of("shl.b32", 'r', {"1", "31"}), 0x80000000u);
  EXPECT_EQ(result_of("shl.b32", 'r', {"1", "32"}), 0u);
  EXPECT_EQ(result_of("shr.s32", 'r', {"-8", "40"}), 0xffffffffu);
  EXPECT_EQ(result_of("shr.u64", 'd', {"-1", "60"}), 15u);
  EXPECT_EQ(result_of("not.b16", 'h', {"0x00ff"}), 0xff00u);
  EXPECT_EQ(result_of("popc.b64", 'r', {"0xf0f0"}), 8u);
  EXPECT_EQ(result_of("clz.b32", 'r', {"1"}), 31u);
  EXPECT_EQ(result_of("brev.b32", 'r', {"1"}), 0x80000000u);
  EXPECT_EQ(result_of("bfind.u32", 'r', {"0x100"}), 8u);
  EXPECT_EQ(result_of("bfind.s32", 'r', {"-1"}), 0xffffffffu);
  EXPECT_EQ(result_of("bfe.u32", 'r', {"0xabcd", "4", "8"}), 0xbcu);
  EXPECT_EQ(result_of("bfe.s32", 'r', {"0x80", "4", "4"}), 0xfffffff8u);
  EXPECT_EQ(result_of("bfi.b32", 'r', {"0xf", "0", "8", "4"}), 0xf00u);
  EXPECT_EQ(result_of("prmt.b32", 'r', {"0x33221100", "0x77665544", "0x7610"}), 0x77661100u);
  EXPECT_EQ(result_of("prmt.b32", 'r', {"0x80", "0", "0x8888"}), 0xffffffffu);
  EXPECT_EQ(result_of("lop3.b32", 'r', {"0xf0", "0xcc", "0xaa", "0x96"}), 0x96u);
  EXPECT_EQ(result_of("shf.l.wrap.b32", 'r', {"0x80000000", "1", "1"}), 3u);
  EXPECT_EQ(result_of("shf.r.wrap.b32", 'r', {"0", "1", "1"}), 0x80000000u);
  EXPECT_EQ(result_of("shf.r.clamp.b32", 'r', {"0", "5", "40"}), 5u);
  EXPECT_EQ(result_of("mov.b64", 'd', {"{1, 2}"}), 0x200000001u);
}

TEST(PtxInstructions, Floats) {
  const std::string one = bits(1.0f), nan = bits(std::nanf("")), tiny = "0f00000001";
  EXPECT_EQ(f32(result_of("add.f32", 'f', {one, bits(2.5f)})), 3.5f);
  EXPECT_EQ(
      f32(result_of("fma.rn.f32", 'f', {bits(1 + 0x1p-12f), bits(1 - 0x1p-12f), bits(-1.0f)})),
      -0x1p-24f);
  EXPECT_EQ(f32(result_of("add.rm.f32", 'f', {one, bits(0x1p-30f)})), 1.0f);
  EXPECT_EQ(f32(result_of("add.rp.f32", 'f', {one, bits(0x1p-30f)})), std::nextafter(1.0f, 2.0f));
  EXPECT_EQ(f32(result_of("div.rn.f32", 'f', {one, bits(3.0f)})), 1.0f / 3.0f);
  EXPECT_EQ(f32(result_of("mul.ftz.f32", 'f', {tiny, bits(1e9f)})), 0.0f);
  EXPECT_EQ(f32(result_of("mul.f32", 'f', {tiny, bits(2.0f)})), 0x1p-148f);
  EXPECT_EQ(f32(result_of("min.f32", 'f', {nan, one})), 1.0f);
  EXPECT_TRUE(std::isnan(f32(result_of("max.NaN.f32", 'f', {nan, one}))));
  EXPECT_TRUE(std::signbit(f32(result_of("min.f32", 'f', {bits(0.0f), bits(-0.0f)}))));
  EXPECT_EQ(f32(result_of("ex2.approx.ftz.f32", 'f', {bits(3.0f)})), 8.0f);
  EXPECT_EQ(f32(result_of("add.sat.f32", 'f', {one, one})), 1.0f);
  EXPECT_EQ(f64(result_of("sqrt.rn.f64", 'g', {bits(2.0)})), std::sqrt(2.0));
  EXPECT_EQ(f32(result_of("copysign.f32", 'f', {bits(-1.0f), bits(5.0f)})), -5.0f);
}

TEST(PtxInstructions, Comparisons) {
  const std::string nan = bits(std::nanf("")), one = bits(1.0f);
  EXPECT_EQ(result_of("setp.lt.s32", 'p', {"-1", "1"}), 1u);
  EXPECT_EQ(result_of("setp.lt.u32", 'p', {"-1", "1"}), 0u);
  EXPECT_EQ(result_of("setp.ne.f32", 'p', {nan, one}), 0u);
  EXPECT_EQ(result_of("setp.neu.f32", 'p', {nan, one}), 1u);
  EXPECT_EQ(result_of("setp.ltu.f32", 'p', {nan, one}), 1u);
  EXPECT_EQ(result_of("setp.nan.f32", 'p', {nan, one}), 1u);
  EXPECT_EQ(result_of("setp.ge.f32", 'p', {one, one}), 1u);
  EXPECT_EQ(result_of("setp.eq.and.s32", 'p', {"1", "1", "%p8"}), 0u);  // %p8 is false there
  EXPECT_EQ(result_of("setp.eq.or.s32", 'p', {"1", "1", "%p8"}), 1u);
}

TEST(PtxInstructions, Conversions) {
  EXPECT_EQ(result_of("cvt.rni.s32.f32", 'r', {bits(2.5f)}), 2u);
  EXPECT_EQ(result_of("cvt.rzi.s32.f32", 'r', {bits(-2.9f)}), static_cast<std::uint32_t>(-2));
  EXPECT_EQ(result_of("cvt.rmi.s32.f32", 'r', {bits(-2.1f)}), static_cast<std::uint32_t>(-3));
  EXPECT_EQ(result_of("cvt.rzi.u32.f32", 'r', {bits(-2.9f)}), 0u);
  EXPECT_EQ(result_of("cvt.rzi.s32.f32", 'r', {bits(3e9f)}), 0x7fffffffu);
  EXPECT_EQ(result_of("cvt.rzi.s32.f32", 'r', {bits(std::nanf(""))}), 0u);
  EXPECT_EQ(f32(result_of("cvt.rpi.f32.f32", 'f', {bits(1.2f)})), 2.0f);
  EXPECT_EQ(f32(result_of("cvt.sat.f32.f32", 'f', {bits(1.2f)})), 1.0f);
  EXPECT_EQ(f32(result_of("cvt.rn.f32.s64", 'f', {"-3"})), -3.0f);
  EXPECT_EQ(f32(result_of("cvt.rz.f32.u32", 'f', {"0xffffffff"})), 0x1.fffffep31f);
  EXPECT_EQ(f32(result_of("cvt.rn.f32.f64", 'f', {bits(0.1)})), 0.1f);
  EXPECT_EQ(f64(result_of("cvt.f64.f32", 'g', {bits(0.1f)})), static_cast<double>(0.1f));
  EXPECT_EQ(result_of("cvt.s64.s32", 'd', {"-1"}), 0xffffffffffffffffu);
  EXPECT_EQ(result_of("cvt.u64.u32", 'd', {"-1"}), 0xffffffffu);
  EXPECT_EQ(result_of("cvt.s32.s8", 'r', {"0x80"}), 0xffffff80u);
  EXPECT_EQ(result_of("cvt.sat.u8.s32", 'r', {"300"}), 255u);
}

TEST(PtxMachine, DivergentLanesMeetAgain) {
  memory.assign(64, 0);
  run("mov.u32 %r1, %tid.x; mul.wide.u32 %rd1, %r1, 8; add.s64 %rd2, %rd0, %rd1;\n"
      "and.b32 %r2, %r1, 1; setp.eq.s32 %p1, %r2, 0; mov.u32 %r3, 5;\n"
      "@%p1 bra $even;\n"
      "add.s32 %r3, %r3, 1; bra.uni $both;\n"
      "$even:\nadd.s32 %r3, %r3, 10;\n"
      "$both:\nshfl.sync.bfly.b32 %r4|%p2, %r3, 1, 31, -1;\n"
      "st.global.u32 [%rd2], %r4;");
  EXPECT_EQ(memory[0], 6u);
  EXPECT_EQ(memory[1], 15u);
}

TEST(PtxMachine, BarriersReleaseEveryWarpAtTheSamePlace) {
  memory.assign(64, 0);
  // Thread i hands i to thread 63 - i through shared memory, twice.
  run(".shared .align 4 .b8 s[256];\n"
      "mov.u32 %r1, %tid.x; shl.b32 %r2, %r1, 2; mov.u32 %r3, s; add.s32 %r4, %r3, %r2;\n"
      "sub.s32 %r5, 252, %r2; add.s32 %r5, %r3, %r5;\n"
      "st.shared.u32 [%r4], %r1;\nbar.sync 0;\nld.shared.u32 %r6, [%r5];\nbar.sync 0;\n"
      "st.shared.u32 [%r4], %r6;\nbar.sync 0;\nld.shared.u32 %r6, [%r5];\n"
      "mul.wide.u32 %rd1, %r1, 8; add.s64 %rd1, %rd0, %rd1; st.global.u32 [%rd1], %r6;",
      64);
  for (std::uint64_t i = 0; i < 64; ++i) EXPECT_EQ(memory[i], i);
}

TEST(PtxParser, RefusesWhatItDoesNotKnow) {
  const auto refusal = [](const std::string& body) -> std::string {
    try {
      run(body);
    } catch (const PtxError& error) {
      return error.what();
    }
    return "none";
  };
  EXPECT_THAT(refusal("frobnicate.b32 %r1, %r2;"), testing::HasSubstr("is not known"));
  EXPECT_THAT(refusal("add.rq.f32 %f1, %f2, %f3;"), testing::HasSubstr("is not known"));
  EXPECT_THAT(refusal("ld.global.v8.f32 %f1, [%rd0];"), testing::HasSubstr(".v8"));
  EXPECT_THAT(refusal("ld.global.strange.f32 %f1, [%rd0];"), testing::HasSubstr(".strange"));
  EXPECT_THAT(refusal("bra $nowhere;"), testing::HasSubstr("no such label"));
  EXPECT_THAT(refusal("mov.u32 %r77, 0;"), testing::HasSubstr("no register"));
  EXPECT_THAT(refusal("mov.u32 %r1, %clock;"), testing::HasSubstr("no register"));
  EXPECT_THAT(refusal("bar.sync 1;"), testing::HasSubstr("only barrier 0"));
  EXPECT_THAT(refusal("call foo, (%r1);"), testing::Not(testing::StrEq("none")));
  EXPECT_THAT(refusal(".reg .b128 %q;"), testing::HasSubstr("unknown type"));
  EXPECT_THAT(refusal("mma.sync.aligned.m16n8k8.f32 %f1, %f2, %f3, %f4;"),
              testing::HasSubstr("is not known"));
  EXPECT_THAT(refusal(".branchtargets a, b;"), testing::HasSubstr("do not know"));
}

TEST(PtxMachine, FaultsNameTheThreadAndTheInstruction) {
  memory.assign(64, 0);
  const auto fault = [](const std::string& body) -> std::string {
    try {
      run(body);
    } catch (const simt::KernelFault& error) {
      return error.what();
    }
    return "none";
  };
  EXPECT_THAT(fault("ld.global.u32 %r1, [%rd0+512];"), testing::HasSubstr("in no allocation"));
  EXPECT_THAT(fault("ld.global.u64 %rd1, [%rd0+508];"), testing::HasSubstr("not a multiple of 8"));
  EXPECT_THAT(fault("st.global.u32 [%rd0], 1;"),
              testing::AllOf(testing::HasSubstr("thread 1 of block (0, 0, 0)"),
                             testing::HasSubstr("st.global.u32 [%rd0+0], 1"),
                             testing::HasSubstr("a race")));
  EXPECT_THAT(fault(".local .align 4 .b8 l[8]; mov.u64 %rd1, l; st.local.u32 [%rd1+8], 1;"),
              testing::HasSubstr("of local memory"));
}

TEST(PtxShadow, OrdersByBarrierWarpAndBlock) {
  Shadow shadow(8192);
  const auto by = [](std::uint16_t thread, std::uint32_t block_epoch, std::uint32_t warp_epoch,
                     std::uint32_t block) {
    Access access;
    access.by = Access::By::thread;
    access.thread = thread;
    access.block = block;
    access.block_epoch = block_epoch;
    access.warp_epoch = warp_epoch;
    return access;
  };
  EXPECT_FALSE(shadow.use(0, 4, Use::write, by(0, 0, 0, 0)));
  EXPECT_FALSE(shadow.use(4, 4, Use::write, by(1, 0, 0, 0)));  // the neighbour
  EXPECT_TRUE(shadow.use(0, 4, Use::read, by(1, 0, 0, 0)));
  EXPECT_FALSE(shadow.use(0, 4, Use::read, by(1, 0, 1, 0)));   // after a __syncwarp
  EXPECT_TRUE(shadow.use(0, 4, Use::read, by(33, 0, 1, 0)));   // of another warp
  EXPECT_FALSE(shadow.use(0, 4, Use::read, by(33, 1, 0, 0)));  // after a barrier
  EXPECT_TRUE(shadow.use(0, 4, Use::write, by(34, 1, 0, 0)));  // that read
  EXPECT_TRUE(shadow.use(0, 4, Use::read, by(0, 9, 9, 1)));    // another block
  // Bytes of one word by different threads do not meet; a word meets its bytes.
  for (std::uint16_t i = 0; i < 4; ++i)
    EXPECT_FALSE(shadow.use(4096u + i, 1, Use::write, by(i, 0, 0, 0)));
  EXPECT_TRUE(shadow.use(4096, 4, Use::read, by(0, 0, 0, 0)));
  // Many readers, then a write that is ordered after only some.
  EXPECT_FALSE(shadow.use(64, 4, Use::read, by(0, 0, 0, 0)));
  EXPECT_FALSE(shadow.use(64, 4, Use::read, by(40, 0, 0, 0)));
  EXPECT_TRUE(shadow.use(64, 4, Use::write, by(0, 0, 0, 0)));
  // Atomics.
  EXPECT_FALSE(shadow.use(128, 4, Use::atomic, by(0, 0, 0, 0)));
  EXPECT_FALSE(shadow.use(128, 4, Use::atomic, by(0, 0, 0, 5)));
  EXPECT_TRUE(shadow.use(128, 4, Use::read, by(0, 7, 7, 5)));  // block 0's is not before it
  shadow.clear();
  EXPECT_FALSE(shadow.use(0, 4, Use::read, by(0, 0, 0, 1)));
}

}  // namespace
}  // namespace ballot::ptx
