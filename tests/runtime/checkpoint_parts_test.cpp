// The momentum of cut tensors: saved by parts, read again by whoever has other parts.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <optional>
#include <utility>

#include "core/error.h"
#include "core/hash.h"
#include "models/safetensors.h"
#include "runtime/checkpoint.h"
#include "runtime/checkpoint_publish.h"
#include "runtime/checkpoint_writer.h"
#include "tests/runtime/checkpoint_support.h"
#include "tests/support/temporary_folder.h"

namespace ballot {
namespace {

using testing::HasSubstr;

// Wide with padded rows and blocks of 64, tall with padded rows, one for a single member.
std::vector<ParameterShape> large_shapes() {
  return {{"head.weight", ParameterKind::head, 258, 64},
          {"down.weight", ParameterKind::hidden_matrix, 100, 1900},
          {"up.weight", ParameterKind::hidden_matrix, 700, 100},
          {"q.weight", ParameterKind::hidden_matrix, 64, 64},
          {"norm", ParameterKind::vector, 1, 70},
          {"embed.weight", ParameterKind::embedding, 258, 64}};
}

// One member's state. Momentum is a function of the tensor and the element, whoever holds it.
class MemberState {
 public:
  MemberState(int members, int member, bool cut, DType momentum = DType::f32)
      : groups_(small_groups()), arena_(large_shapes(), DType::f32) {
    groups_[static_cast<std::size_t>(ParameterKind::hidden_matrix)].momentum_type = momentum;
    plan_ = plan_members(arena_, groups_, members);
    if (cut && members > 1) {
      cut_evenly("down.weight", 64);
      cut_evenly("up.weight", 1);
    }
    state_.emplace(arena_, groups_, plan_, member);
  }

  void fill() {
    for (const ParameterState& s : state_->states())
      for_each(s, [](std::byte* element, const std::byte* expected, std::size_t bytes) {
        std::memcpy(element, expected, bytes);
      });
  }
  // Elements that are not what fill() writes.
  std::int64_t wrong() {
    std::int64_t count = 0;
    for (const ParameterState& s : state_->states())
      for_each(s, [&](const std::byte* element, const std::byte* expected, std::size_t bytes) {
        count += std::memcmp(element, expected, bytes) != 0;
      });
    return count;
  }

  const MemberPlan& plan() const { return plan_; }
  const ParameterArena& arena() const { return arena_; }
  OptimizerState& state() { return *state_; }

 private:
  // Whatever the planner would find worth it: the last member has the first part.
  void cut_evenly(const std::string& name, std::int64_t alignment) {
    const Parameter& p = arena_.find(name);
    const auto index = static_cast<std::size_t>(p.index);
    const std::int64_t longer = std::max(p.shape.rows, p.shape.cols);
    const std::int64_t units = (longer + alignment - 1) / alignment;
    plan_.worker[index] = MemberPlan::kSeveral;
    plan_.parts[index].clear();
    for (int m = 0; m < plan_.members; ++m)
      plan_.parts[index].push_back({plan_.members - 1 - m, units * m / plan_.members * alignment,
                                    std::min(longer, units * (m + 1) / plan_.members * alignment)});
  }

  template <class Body>
  void for_each(const ParameterState& s, const Body& body) {
    const Tensor& all = s.momentum.view();
    if (!s.is_private || all.data == nullptr) return;
    const std::int64_t row0 = s.part.by_columns ? 0 : s.part.begin;
    const std::int64_t column0 = s.part.by_columns ? s.part.begin : 0;
    for (std::int64_t r = 0; r < s.part.rows; ++r)
      for (std::int64_t c = 0; c < s.part.cols; ++c) {
        const std::uint64_t expected =
            hash64(static_cast<std::uint64_t>(s.parameter->index),
                   static_cast<std::uint64_t>(row0 + r), static_cast<std::uint64_t>(column0 + c));
        const std::size_t bytes = size_bytes(all.type);
        body(all.data + static_cast<std::size_t>(r * s.part.row_stride + c) * bytes,
             reinterpret_cast<const std::byte*>(&expected), bytes);
      }
  }

  std::array<ParameterGroup, 4> groups_;
  ParameterArena arena_;
  MemberPlan plan_;
  std::optional<OptimizerState> state_;
};

// The checkpoint of one voter, written by its members. Returns how many tensors were cut.
std::size_t save(const std::string& folder, int members, bool cut, DType momentum,
                 std::string* path) {
  std::size_t tensors = 0;
  for (int m = 0; m < members; ++m) {
    MemberState mine(members, m, cut, momentum);
    mine.fill();
    tensors = 0;
    for (const Parameter& p : mine.arena().parameters()) tensors += mine.plan().is_cut(p);
    CheckpointOptions options;
    options.staging_bytes = 10000;
    CheckpointWriter writer(options);
    TrainingState training = small_training(1, fold(parameter_digests(mine.arena())), members);
    training.members = members;
    writer.begin({.index = m, .count = members, .voter = 0, .member = m, .members = members},
                 training, parameter_digests(mine.arena()), mine.arena(), mine.state(),
                 {folder, ""});
    EXPECT_TRUE(writer.wait(Deadline::in(std::chrono::seconds(60))));
    EXPECT_EQ(writer.finished().value().error, "");
  }
  *path = publish_checkpoint(folder, 1, std::nullopt, {});
  return tensors;
}

TEST(CheckpointParts, AreReadByMembersWithAnyOtherParts) {
  for (const DType momentum : {DType::f32, DType::bf16})
    for (const auto& [before, cut_before] :
         std::vector<std::pair<int, bool>>{{1, true}, {4, true}, {3, false}}) {
      SCOPED_TRACE(before);
      const TemporaryFolder folder;
      std::string path;
      EXPECT_EQ(save(folder.path(), before, cut_before, momentum, &path) > 0,
                cut_before && before > 1);
      verify_checkpoint(path);
      for (const auto& [after, cut_after] :
           std::vector<std::pair<int, bool>>{{1, true}, {3, true}, {2, false}, {4, true}})
        for (int m = 0; m < after; ++m) {
          SCOPED_TRACE(fmt::format("member {} of {}", m, after));
          MemberState mine(after, m, cut_after, momentum);
          EXPECT_GT(mine.wrong(), 0);
          load_checkpoint(path, mine.arena(), mine.state(), 0);
          EXPECT_EQ(mine.wrong(), 0);
        }
    }
}

// Writes a member's file again with other metadata, or without a tensor.
void rewrite(const std::string& path, const std::string& without,
             const std::map<std::string, std::string>& changes) {
  std::vector<std::byte> kept;
  {
    const SafetensorsReader file(path);
    std::map<std::string, std::string> metadata = file.metadata();
    for (const auto& [key, value] : changes) metadata[key] = value;
    std::vector<TensorToStore> tensors;
    for (const StoredTensor& t : file.tensors())
      if (t.name != without) tensors.push_back({t.name, t.type, t.shape, t.bytes});
    write_safetensors(path + ".new", tensors, metadata);
  }
  std::filesystem::rename(path + ".new", path);
}

TEST(CheckpointParts, ThatAreMissingOrMisnamedAreRefused) {
  const TemporaryFolder folder;
  std::string path;
  save(folder.path(), 2, true, DType::f32, &path);
  const std::string saved = path + "/trainer/voter-0-member-1.safetensors";
  std::filesystem::copy_file(saved, folder.file("saved"));
  MemberState whole(1, 0, false);
  const auto refusal = [&](const std::string& without,
                           const std::map<std::string, std::string>& changes) -> std::string {
    std::filesystem::remove(saved);
    std::filesystem::copy_file(folder.file("saved"), saved);
    rewrite(saved, without, changes);
    try {
      load_checkpoint(path, whole.arena(), whole.state(), 0);
    } catch (const WorldError& error) {
      return error.what();
    }
    return "it was read";
  };
  EXPECT_EQ(refusal("", {}), "it was read");
  EXPECT_THAT(refusal("momentum.down.weight", {}),
              HasSubstr("columns 0 to 0 of momentum.down.weight with the files beside it, "
                        "expected 0 to 1900, each once"));
  for (const char* text :
       {"", "columns", "columns 0", "columns 0 960 ", "columns 941 1901", "columns 960 0",
        "columns -1 960", "rows 0 960", "columns 0 99999999999999999999", "columns 0x0 960"})
    EXPECT_THAT(refusal("", {{"part.down.weight", text}}), HasSubstr("columns BEGIN END")) << text;
  // A shape that does not fit, and one that does but is another part's.
  EXPECT_THAT(refusal("", {{"part.down.weight", "columns 0 896"}}),
              HasSubstr("expected f32 (100, 896)"));
  EXPECT_THAT(refusal("", {{"part.down.weight", "columns 64 1024"}}), HasSubstr("each once"));
}

}  // namespace
}  // namespace ballot
