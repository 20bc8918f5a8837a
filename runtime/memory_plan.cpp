#include "runtime/memory_plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <fstream>
#include <map>
#include <numeric>
#include <optional>
#include <set>

#include "core/error.h"
#include "core/parameter_arena.h"  // kArenaAlignment, kRowAlignment
#include "runtime/tensor_part.h"

namespace ballot {
namespace {

constexpr std::int64_t kBitsPerByte = 8;
constexpr double kMebibyte = 1024.0 * 1024.0;

std::int64_t rounded_up(std::int64_t value, std::int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

// With the padding of the arena.
std::int64_t extent_of(const ParameterShape& shape) {
  return rounded_up(shape.rows * rounded_up(shape.cols, kRowAlignment), kArenaAlignment);
}

// What one of the members has of it.
std::int64_t share_of(std::int64_t elements, std::int64_t members) {
  return (elements + members - 1) / members;
}

// Two copies of the largest matrix that is orthogonalized, and three squares of a shorter side: see
// optim/newton_schulz.h. Those of a vote and those of a mean are apart.
struct NewtonSchulzNeed {
  std::int64_t largest = 0, side = 0;
  // `count` elements of it are worked on.
  void add(const ParameterShape& shape, std::int64_t count) {
    largest = std::max(largest, count);
    side = std::max(side, std::min(shape.rows, shape.cols));
  }
  std::int64_t bytes(DType type) const {
    const auto size = static_cast<std::int64_t>(size_bytes(type));
    return 2 * largest * size + side * side * (4 + size + (type == DType::f32 ? 0 : size));
  }
};

// What a member of a voter works on, and what members tell each other.
class MemberNeed {
 public:
  MemberNeed(const MemberPlan& plan, int member) : plan_(plan), member_(member) {}

  // A voted tensor, by its place in the arena. What this member works on of it.
  std::optional<TensorPart> add(const ParameterShape& shape, std::size_t index) {
    Parameter parameter;
    parameter.shape = shape;
    parameter.row_stride = rounded_up(shape.cols, kRowAlignment);
    std::optional<TensorPart> mine;
    std::vector<int> holders;
    for (const MatrixPart& one : plan_.parts[index]) {
      const TensorPart part = part_of(parameter, one);
      holders.push_back(one.member);
      if (part.by_columns) packed_ += part.extent();  // of others too, on its way to them
      if (one.member == member_) mine = part;
    }
    if (mine) largest_ = std::max(largest_, mine->extent());
    std::ranges::sort(holders);
    if (mine && holders.size() > 1) sides_[holders].insert(std::min(shape.rows, shape.cols));
    return mine;
  }
  // Two slots for each other member's gradient of what this one works on; cut ones packed.
  std::int64_t gradient_bytes() const { return (2 * (plan_.members - 1) * largest_ + packed_) * 4; }
  // Gram matrices: of each set of members that hold parts, one for each side.
  std::int64_t sum_bytes() const {
    std::int64_t elements = 0;
    for (const auto& [holders, sides] : sides_)
      for (const std::int64_t side : sides) elements += side * side;
    return 3 * elements * 4;  // as means: its own, the sum, and what others sent
  }

 private:
  const MemberPlan& plan_;
  const int member_;
  std::int64_t largest_ = 0, packed_ = 0;  // elements
  std::map<std::vector<int>, std::set<std::int64_t>> sides_;
};

}  // namespace

std::int64_t MemoryPlan::total() const {
  return std::accumulate(lines.begin(), lines.end(), std::int64_t{0},
                         [](std::int64_t sum, const Line& line) { return sum + line.bytes; });
}

std::int64_t MemoryPlan::bytes_of(const std::string& name) const {
  const auto found = std::ranges::find(lines, name, &Line::name);
  return found == lines.end() ? 0 : found->bytes;
}

std::string MemoryPlan::describe() const {
  std::vector<Line> sorted = lines;
  std::ranges::stable_sort(sorted, std::greater{}, &Line::bytes);
  std::string text;
  for (const Line& line : sorted)
    text += fmt::format("  {:9.1f} MiB  {}{}{}\n", static_cast<double>(line.bytes) / kMebibyte,
                        line.name, line.of.empty() ? "" : ": ", line.of);
  return text + fmt::format("  {:9.1f} MiB  in all", static_cast<double>(total()) / kMebibyte);
}

MemoryPlan plan_memory(const MemoryFacts& facts) {
  std::int64_t all = 0, trained = 0, momentum = 0, second = 0, voted = 0, averaged = 0;
  std::int64_t count = 0, trained_count = 0;
  std::array<std::int64_t, 2> direction{};            // largest: of a vote, of a mean
  std::array<std::array<NewtonSchulzNeed, 2>, 2> ns;  // of a vote, of a mean; f32, bf16
  std::optional<MemberNeed> members;
  if (facts.plan != nullptr && facts.members > 1) members.emplace(*facts.plan, facts.member);
  for (std::size_t i = 0; i < facts.shapes.size(); ++i) {
    const ParameterShape& shape = facts.shapes[i];
    const ParameterGroup& group = facts.groups[static_cast<std::size_t>(shape.kind)];
    const std::int64_t extent = extent_of(shape);
    all += extent;
    count += shape.rows * shape.cols;
    if (shape.frozen) continue;
    trained += extent;
    trained_count += shape.rows * shape.cols;
    const bool votes = group.reduce == Reduce::vote, adamw = group.rule == Rule::adamw;
    std::int64_t kept = votes ? share_of(extent, facts.members) : extent, works_on = extent;
    std::int64_t orthogonalized = shape.rows * shape.cols;
    if (votes && members) {
      const std::optional<TensorPart> mine = members->add(shape, i);
      kept = works_on = mine ? mine->extent() : 0;
      orthogonalized = mine ? mine->rows * mine->cols : 0;
    }
    momentum += kept * (adamw ? 4 : static_cast<std::int64_t>(size_bytes(group.momentum_type)));
    if (adamw) second += extent * 4;
    (votes ? voted : averaged) += extent;
    if (adamw || works_on == 0) continue;
    const std::size_t where = votes ? 0 : 1;
    direction[where] = std::max(direction[where], works_on);
    if (group.newton_schulz)
      ns[where][group.newton_schulz_type == DType::f32 ? 0 : 1].add(shape, orthogonalized);
  }
  MemoryPlan plan;
  const auto add = [&plan](const char* name, std::int64_t bytes, std::string of) {
    if (bytes > 0) plan.lines.push_back({name, bytes, std::move(of)});
  };
  add("weights", all * 4, fmt::format("fp32 masters of {} parameters", count));
  if (facts.compute == DType::bf16) add("compute copies", all * 2, "bf16, what products read");
  add("gradients", trained * 4, fmt::format("fp32, of the {} that are trained", trained_count));
  add("momentum", momentum,
      members             ? "of what this member works on"
      : facts.members > 1 ? fmt::format("about 1/{} of a voter's", facts.members)
                          : "");
  add("second moments", second, "fp32, AdamW's");
  std::int64_t orthogonalizing = 0;
  for (const auto& where : ns)
    for (const std::size_t type : {std::size_t{0}, std::size_t{1}})
      if (where[type].largest > 0)
        orthogonalizing += where[type].bytes(type == 0 ? DType::f32 : DType::bf16);
  add("directions", (direction[0] + direction[1]) * 4, "fp32, the largest tensor's");
  add("Newton-Schulz", orthogonalizing, "of the largest matrix");
  if (members) {
    add("members' gradients", members->gradient_bytes(), "fp32, of what this member works on");
    add("sums of parts", members->sum_bytes(), "fp32, Gram matrices of cut tensors");
  }
  // Bits, abstentions (at most one for 64 elements), held blocks and elements.
  const std::int64_t bits = voted / kBitsPerByte;
  add("ballot and verdict", 3 * bits + 2 * bits / 64, "one bit a parameter, three times");
  if (facts.voters > 1) add("votes on the way", 2 * bits, "at most, pieces of others' ballots");
  add("means", averaged * 4 * (facts.voters > 1 ? 3 : 1), "fp32, and what others sent");
  if (facts.activations) {
    add("activations", facts.activations->layers_bytes, "kept by each layer for the backward");
    add("one layer's", facts.activations->shared_bytes, "activations that all layers share");
    add("scratch", facts.activations->scratch_bytes, "attention, logits of a chunk, norms");
  }
  add("checkpoint staging", std::min(facts.checkpoint_staging_bytes, all * 4 + momentum + second),
      "checkpoint.staging_mib, or what there is to save");
  return plan;
}

std::int64_t memory_taken(const ProcessMemory& before, const ProcessMemory& now) {
  return before.resident_bytes > 0 && before.peak_bytes > 0 && now.peak_bytes > before.peak_bytes
             ? now.peak_bytes - before.resident_bytes
             : -1;
}

ProcessMemory process_memory() {
  std::ifstream status("/proc/self/status");
  ProcessMemory memory;
  for (std::string word; status >> word;) {
    if (word == "VmRSS:") status >> memory.resident_bytes;
    if (word == "VmHWM:") status >> memory.peak_bytes;
  }
  memory.resident_bytes *= 1024;  // the kernel tells kB
  memory.peak_bytes *= 1024;
  return memory;
}

}  // namespace ballot
