// A voter's part of a step on a GPU against the CPU's, to the bit, and that it waits for nothing.
#include <gtest/gtest.h>

#include <cstdlib>
#include <cstring>
#include <limits>
#include <random>

#include "core/copy.h"
#include "core/host_bytes.h"
#include "runtime/ballot_caster.h"
#include "runtime/parameter_rules.h"
#include "tests/cuda/device_tensor.h"

namespace ballot {
namespace {

std::vector<ParameterShape> shapes() {
  return {{"table", ParameterKind::embedding, 40, 100},
          {"wide", ParameterKind::hidden_matrix, 3, 600},
          {"tall", ParameterKind::hidden_matrix, 70, 33},
          {"gain", ParameterKind::vector, 1, 77},
          {"head", ParameterKind::head, 40, 100}};
}

// Lion, whose directions have the same bits everywhere; gains are averaged, clipped.
std::array<ParameterGroup, 4> groups() {
  std::array<ParameterGroup, 4> all;
  for (ParameterGroup& group : all) {
    group = default_group(Rule::lion);
    group.reduce = Reduce::vote;
    group.abstain_below = 0.05;
  }
  ParameterGroup& gains = all[static_cast<std::size_t>(ParameterKind::vector)];
  gains = default_group(Rule::adamw);
  gains.reduce = Reduce::mean_f32;
  gains.clip_norm = 0.5;
  all[static_cast<std::size_t>(ParameterKind::embedding)].embedding_rows = EmbeddingRows::seen;
  return all;
}

// One voter on one device.
struct Voter {
  explicit Voter(Device device, bool host_bits = true)
      : arena(shapes(), DType::f32, device),
        state(arena, rules),
        layout(state),
        caster(state, layout, 9),
        ballot(layout.voted(), device, host_bits),
        values(static_cast<std::size_t>(layout.mean_extent(0)) * sizeof(float), device),
        model(device) {}

  // The same numbers on every device; some rows of the table have no token.
  void fill(std::uint64_t seed, const std::string& poisoned) {
    for (const Parameter& p : arena.parameters()) {
      std::mt19937_64 random(seed + static_cast<std::uint64_t>(p.index));
      std::normal_distribution<float> normal;
      std::vector<float> host(static_cast<std::size_t>(p.extent()));
      for (std::int64_t row = 0; row < p.shape.rows; ++row)
        for (std::int64_t col = 0; col < p.shape.cols; ++col)
          host[static_cast<std::size_t>(row * p.row_stride + col)] =
              p.shape.kind == ParameterKind::embedding && (row + seed) % 3 == 0 ? 0
                                                                                : normal(random);
      if (p.shape.name == poisoned)
        host[static_cast<std::size_t>(p.shape.cols - 1)] = std::numeric_limits<float>::infinity();
      copy_bytes(p.gradient.data, arena.device(), host.data(), Device{},
                 host.size() * sizeof(float), model);
      model.synchronize();
    }
  }
  void give(bool usable, float* device_values = nullptr) {
    for (ParameterState& s : state.states())
      if (s.group->reduce == Reduce::vote)
        caster.cast(s, model, usable, ballot);
      else if (device_values != nullptr)
        caster.contribute(s, model, usable, device_values);
      else
        caster.contribute(s, model, usable, values.span<float>());
  }
  std::string take() {
    std::string told;
    while (const auto made = caster.next(true))
      told += made->state->parameter->shape.name + (made->finite ? " finite" : " not") +
              (made->counts ? " counts, " : ", ");
    return told;
  }
  std::string momenta() const {
    std::string all;
    for (const ParameterState& s : state.states()) {
      if (s.group->reduce != Reduce::vote) continue;
      const HostBytes bytes(momentum_of(s));
      all.append(reinterpret_cast<const char*>(bytes.data()), bytes.bytes().size());
    }
    return all;
  }

  const std::array<ParameterGroup, 4> rules = groups();
  ParameterArena arena;
  OptimizerState state;
  StepLayout layout;
  BallotCaster caster;
  Ballot ballot;
  PinnedBuffer values;
  Stream model;
};

std::vector<std::uint64_t> words(const BitVector& bits) {
  return {bits.span().begin(), bits.span().end()};
}

void expect_equal(const Voter& gpu, const Voter& cpu, const std::string& when) {
  EXPECT_EQ(words(gpu.ballot.bits()), words(cpu.ballot.bits())) << when;
  EXPECT_EQ(words(gpu.ballot.abstentions()), words(cpu.ballot.abstentions())) << when;
  EXPECT_EQ(gpu.momenta(), cpu.momenta()) << when;
}

TEST(CasterOnGpu, CastsWhatTheCpuCasts) {
  Voter gpu(test::cuda_device()), cpu(Device{});
  struct Case {
    const char* poisoned;
    bool usable = true, abstains = false;
  };
  std::int64_t step = 0;
  for (const Case c : {Case{""},
                       {"wide"},
                       {"table"},
                       {"gain"},
                       {"", false},
                       {"tall", false},
                       {"", true, true},
                       {"head", true, true},
                       {""}}) {
    const std::string when =
        std::string("poisoned: ") + c.poisoned + ", step " + std::to_string(step);
    std::string told[2];
    for (Voter* voter : {&gpu, &cpu}) {
      voter->caster.abstain_from_now(c.abstains);
      voter->caster.begin(step, 2);
      voter->fill(static_cast<std::uint64_t>(step), c.poisoned);
      voter->give(c.usable);
      told[voter == &cpu] = voter->take();
    }
    EXPECT_EQ(told[0], told[1]) << when;
    EXPECT_EQ(told[0].find(std::string(c.poisoned) + " finite"),
              c.poisoned[0] == 0 && c.usable ? told[0].find(" finite") : std::string::npos)
        << when << told[0];
    expect_equal(gpu, cpu, when);
    if (told[0].find("counts") != std::string::npos) {  // else they may hold anything
      EXPECT_TRUE(std::ranges::equal(gpu.values.bytes(), cpu.values.bytes())) << when;
    }
    ++step;
  }
}

// Of the mean's values on the device: the same numbers where they count, and nothing where not.
TEST(CasterOnGpu, ContributesOnTheDeviceWhatTheCpuContributes) {
  Voter there(test::cuda_device()), cpu(Device{});
  const test::DeviceArray<float> values(cpu.values.size_bytes() / sizeof(float));
  std::int64_t step = 0;
  for (const auto& [poisoned, usable, abstains] : {std::tuple{"", true, false},
                                                   {"gain", true, false},
                                                   {"", false, false},
                                                   {"", true, true},
                                                   {"wide", true, false}}) {
    const std::vector<float> before = values.read(there.model);
    std::string told[2];
    for (Voter* voter : {&there, &cpu}) {
      voter->caster.abstain_from_now(abstains);
      voter->caster.begin(step, 0);
      voter->fill(static_cast<std::uint64_t>(step), poisoned);
      voter->give(usable, voter == &there ? values.data() : nullptr);
      told[voter == &cpu] = voter->take();
    }
    EXPECT_EQ(told[0], told[1]) << "step " << step;
    const std::span<const float> host = cpu.values.span<float>();
    EXPECT_EQ(values.read(there.model), told[0].find("counts") == std::string::npos
                                            ? before
                                            : std::vector<float>(host.begin(), host.end()))
        << "step " << step;
    ++step;
  }
}

// Where it abstains its bits are 0 there too: lanes are added up as they are.
TEST(CasterOnGpu, WithoutHostBitsTheBallotLiesOnTheDevice) {
  Voter there(test::cuda_device(), false), cpu(Device{});
  EXPECT_EQ(there.ballot.bits().bit_count(), 0);
  for (const auto& [poisoned, usable] :
       {std::pair{"", true}, {"tall", true}, {"", false}, {"wide", true}}) {
    for (Voter* voter : {&there, &cpu}) {
      voter->caster.begin(3, 1);
      voter->fill(4, poisoned);
      voter->give(usable);
      voter->take();
    }
    std::vector<std::uint64_t> bits(static_cast<std::size_t>(cpu.ballot.bits().word_count()));
    copy_bytes(bits.data(), Device{}, there.ballot.device_bits(), test::cuda_device(),
               bits.size() * 8, there.model);
    there.model.synchronize();
    EXPECT_EQ(bits, words(cpu.ballot.bits())) << poisoned << usable;
    EXPECT_EQ(words(there.ballot.abstentions()), words(cpu.ballot.abstentions()))
        << poisoned << usable;
  }
}

// In the lazy order no stream's work is done until somebody waits for it.
TEST(CasterOnGpu, WaitsForNothingUntilItIsAsked) {
  const char* order = std::getenv("BALLOT_STAND_IN_STREAMS");
  if (order == nullptr || std::strcmp(order, "lazy") != 0)
    GTEST_SKIP() << "only a stand-in's lazy streams show it";
  Voter voter(test::cuda_device());
  voter.caster.begin(0, 0);
  voter.fill(1, "");
  Event given(test::cuda_device());
  fill_zero(voter.arena.parameters()[1].gradient.data, 4, voter.model);
  given.record(voter.model);
  voter.give(true);
  EXPECT_FALSE(voter.caster.next(false));
  EXPECT_FALSE(given.done());
  EXPECT_NE(voter.take(), "");
  EXPECT_TRUE(given.done());
}

}  // namespace
}  // namespace ballot
