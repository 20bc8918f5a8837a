#include "runtime/replay.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/error.h"
#include "runtime/replica_audit.h"

namespace ballot {

std::string why_not_journaled(const RunConfig& config, const StepLayout& layout) {
  for (const ParameterGroup& group : config.groups)
    if (group.newton_schulz && group.reduce != Reduce::vote)
      return fmt::format(
          "group.{}: reduce = \"{}\" with newton_schulz = true: the bits of that direction depend "
          "on processor and threads, and a journal of means would not reproduce them",
          group.name, to_string(group.reduce));
  if (layout.mean_bytes() > config.journal.mean_limit_bytes)
    return fmt::format(
        "a step's means have {} bytes, journal.mean_limit_bytes = {}: what is reduced at full "
        "precision would fill the disk",
        layout.mean_bytes(), config.journal.mean_limit_bytes);
  return "";
}

Digest history_origin(const RunConfig& config, const ParameterArena& arena,
                      std::uint64_t parameters, std::int64_t step) {
  std::string text =
      fmt::format("ballot journal\nseed {}\nties {}\n", config.seed, to_string(config.ties));
  for (const ParameterGroup& g : config.groups)
    text += fmt::format("group {} {} {} {} {} {} {} {}\n", g.name, to_string(g.rule),
                        to_string(g.reduce), g.beta1, g.beta2, g.epsilon, g.momentum,
                        to_string(g.momentum_type));
  for (const Parameter& p : arena.parameters())
    text += fmt::format("tensor {} {} {} {}{}\n", p.shape.name, p.shape.rows, p.shape.cols,
                        p.offset, p.shape.frozen ? " frozen" : "");
  text += fmt::format("step {}\nparameters {:016x}\n", step, parameters);
  return digest_of(text);
}

Replay::Replay(const ParameterArena& arena, OptimizerState& state, const StepLayout& layout,
               std::uint64_t seed, Ties ties)
    : decision_(layout, ties), update_(arena, state, layout, seed, ties) {}

const std::vector<std::uint64_t>& Replay::apply(const Record& record) {
  const StepDecision& decision = decision_.read(record);
  if (record.factors.size() != update_.digests().size())
    throw DataError("the record of step {} is of another model: factors of {} tensors, expected {}",
                    record.step, record.factors.size(), update_.digests().size());
  return update_.apply(record.step - 1, decision, record.factors);
}

std::string describe_difference(const AppliedRecord& expected,
                                const std::vector<std::uint64_t>& found,
                                const ParameterArena& arena) {
  std::string tensor = "the journal does not say which tensor";
  if (expected.tensors.size() == found.size()) {
    const auto differs = std::ranges::mismatch(expected.tensors, found).in2 - found.begin();
    tensor = differs == static_cast<std::ptrdiff_t>(found.size())
                 ? "no single tensor's does"
                 : fmt::format("the first tensor that differs is {}",
                               arena.parameters()[static_cast<std::size_t>(differs)].shape.name);
  }
  return tensor;
}

void require_digests(const AppliedRecord& expected, const std::vector<std::uint64_t>& found,
                     const ParameterArena& arena) {
  const std::uint64_t folded = fold(found);
  if (folded == expected.parameters) return;
  throw DataError("step {}: the replayed parameters have digest {:016x}, the run had {:016x}; {}",
                  expected.step, folded, expected.parameters,
                  describe_difference(expected, found, arena));
}

ReplayReport replay(const JournalShards& shards, const JournalShards::History& history,
                    std::int64_t to_step, const ParameterArena& arena, Replay& replay,
                    std::int64_t tokens_per_sample, TrainingState& training) {
  require(
      training.step == history.base.step && to_step >= training.step && to_step <= history.end.step,
      "replaying from step {} to {} a history of {} to {}", training.step, to_step,
      history.base.step, history.end.step);
  ReplayReport report;
  while (training.step < to_step) {
    Record record = shards.read(history, training.step + 1);
    const std::vector<std::uint64_t>& digests = replay.apply(record);
    std::int64_t samples = 0;
    for (const VoterRange& range : record.ranges) {
      training.sample_counter = std::max(training.sample_counter, range.samples.end);
      samples += range.samples.count();
    }
    for (const ChunkVerdictRecord& chunk : record.chunks)
      report.bytes += static_cast<std::int64_t>(
          8 * (chunk.bits.size() + chunk.held_blocks.size() + chunk.held_elements.size()));
    for (const MeanRecord& mean : record.means)
      report.bytes += static_cast<std::int64_t>(4 * mean.values.size());
    training.tokens_total += samples * tokens_per_sample;
    if (const auto applied = shards.applied(history, record.step)) {
      require_digests(*applied, digests, arena);
      training.tokens_total = applied->tokens_total;
      ++report.proved;
    }
    training.step = record.step;
    training.digest = fold(digests);
    training.journal->chain = record.position().digest;
    ++report.steps;
  }
  return report;
}

}  // namespace ballot
