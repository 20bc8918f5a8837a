// What a model that has no special ways says when it is asked for them.
#include "models/model.h"

#include "core/error.h"

namespace ballot {

std::unique_ptr<Generation> Model::start(std::int64_t sequences, std::int64_t max_length) {
  throw Unavailable(
      "generating {} texts of up to {} tokens: {} has no key/value cache to generate with",
      sequences, max_length, name());
}

void Model::recompute_layers(bool on) {
  if (on)
    throw Unavailable("train.recompute = \"layer\": {} cannot compute its layers again", name());
}

void check_tokens(const TokenBatch& batch, std::int64_t vocabulary, bool with_targets) {
  const std::size_t rows = static_cast<std::size_t>(batch.sequences * batch.length);
  const std::vector<std::int32_t>& starts = batch.document_starts;
  require(batch.sequences > 0 && batch.length > 0 && batch.inputs.size() == rows &&
              (!with_targets || batch.targets.size() == rows) &&
              (starts.empty() || starts.size() == rows),
          "a batch of ({}, {}) with {} inputs, {} targets and {} document starts", batch.sequences,
          batch.length, batch.inputs.size(), batch.targets.size(), starts.size());
  for (const std::int32_t token : batch.inputs)
    if (token < 0 || token >= vocabulary)
      throw DataError("token {} among the inputs, expected 0 to {}", token, vocabulary - 1);
  // A document begins where it says it does, and no position belongs to an earlier one than the
  // position before.
  for (std::size_t n = 0; n < starts.size(); ++n) {
    const auto position = static_cast<std::int32_t>(n % static_cast<std::size_t>(batch.length));
    const bool begins = starts[n] == position;
    const bool goes_on = position > 0 && starts[n] == starts[n - 1];
    if (!begins && !goes_on)
      throw DataError(
          "position {} of row {}: its document begins at {}, expected {} (a document begins there) "
          "or {} (the one before goes on)",
          position, n / static_cast<std::size_t>(batch.length), starts[n], position,
          position > 0 ? starts[n - 1] : 0);
  }
  if (!with_targets) return;
  for (const std::int32_t token : batch.targets)
    if (token != kNoTarget && (token < 0 || token >= vocabulary))
      throw DataError("token {} among the targets, expected 0 to {} or {} for none", token,
                      vocabulary - 1, kNoTarget);
}

}  // namespace ballot
