#include "runtime/run_data.h"

#include "core/error.h"
#include "core/log.h"
#include "runtime/data/first_sample.h"

namespace ballot {

RunData::RunData(const RunConfig& config, const Tokenizer& tokenizer) {
  DataReader reader{tokenizer, config.documents, config.model_folder};
  training_ = read_token_data(config.train_data, reader);
  training_digest_ = training_.digest();
  samples_ = make_sample_source(training_, config.documents, config.sequence_length,
                                static_cast<std::uint64_t>(config.seed), "data.train");
  if (config.validation_data.path.empty()) return;
  // What is held out is cut as what is trained on.
  reader.rules.windows = resolve_windows(config.documents, training_);
  held_out_ = read_token_data(config.validation_data, reader);
  windows_ = std::make_unique<EvaluationWindows>(held_out_, reader.rules, config.sequence_length,
                                                 config.validation_windows, "data.validation");
}

void RunData::require_same_as(const std::optional<Digest>& before, bool say) const {
  if (!before || *before == training_digest_) return;
  const std::string what =
      fmt::format("data.train = \"{}\" has digest {}, the checkpoint was trained on {}",
                  training_.name(), to_string(training_digest_), to_string(*before));
  if (dynamic_cast<const DocumentSampler*>(samples_.get()) != nullptr)
    throw ConfigError(
        "--resume: {}; with data.windows packed or single every sample depends on all documents: "
        "start a new run from its checkpoint instead",
        what);
  if (say) log_warning("{}: from here on samples are others", what);
}

std::string RunData::identity() const {
  return fmt::format("data.train {}\ndata.validation {}\n", to_string(training_digest_),
                     windows_ ? to_string(held_out_.digest()) : "none");
}

std::string RunData::description(const Tokenizer& tokenizer) const {
  TokenBatch first;
  samples_->draw(0, 1, first);
  return fmt::format("data.train: {}\n{}", describe(training_, *samples_),
                     show_sample(first, 0, tokenizer));
}

}  // namespace ballot
