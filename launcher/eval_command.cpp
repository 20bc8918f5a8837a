// `ballot eval`: the mean loss of a model on a file, in nats per predicted token.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cmath>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "core/error.h"
#include "core/parallel.h"
#include "launcher/commands.h"
#include "launcher/environment.h"
#include "models/llama/llama_model.h"
#include "models/model_folder.h"
#include "models/tokenizer.h"
#include "runtime/evaluation.h"
#include "runtime/run_config.h"

namespace ballot {
namespace {

struct EvalFlags {
  std::string model, compute = "f32", device = "cpu";
  TokenSource data;
  std::int64_t sequence_length = 0, batch = 8, threads = 0;
  bool json = false;
};

int evaluate_file(const EvalFlags& flags) {
  set_thread_count(flags.threads > 0 ? static_cast<int>(flags.threads) : default_threads(1));
  const LlamaConfig config = read_model_config(flags.model);
  const std::unique_ptr<Tokenizer> tokenizer = read_tokenizer(flags.model);
  const std::vector<std::int32_t> tokens = read_tokens(flags.data, *tokenizer);
  const EvaluationWindows windows(tokens, flags.sequence_length, 0, flags.data.path);
  const Compute compute = flags.compute == "auto"  ? Compute::automatic
                          : flags.compute == "f32" ? Compute::f32
                                                   : Compute::bf16;
  const Device device = find_device(flags.device);
  const ParameterArena arena(llama_parameter_shapes(config), resolve_compute(compute, device),
                             device);
  load_parameters(flags.model, arena);
  const std::unique_ptr<Model> model = make_llama(config, arena, device);
  const Loss loss = evaluate(*model, windows, flags.batch);
  if (flags.json) {
    const nlohmann::ordered_json result = {{"loss", loss.mean()},
                                           {"tokens", loss.tokens},
                                           {"perplexity", std::exp(loss.mean())},
                                           {"sequence_length", flags.sequence_length},
                                           {"compute", to_string(arena.compute())},
                                           {"device", to_string(device)}};
    fmt::print("{}\n", result.dump());
  } else {
    fmt::print("loss {:.6f} nats per token over {} tokens (perplexity {:.3f})\n", loss.mean(),
               loss.tokens, std::exp(loss.mean()));
  }
  return 0;
}

}  // namespace

void add_eval(CLI::App& app, Action& action) {
  auto flags = std::make_shared<EvalFlags>();
  CLI::App* command =
      app.add_subcommand("eval", "mean loss of a model on a file, in nats per predicted token");
  command->add_option("--model", flags->model, "Hugging Face folder")->required();
  command->add_option("--data", flags->data.path, "text, .jsonl or .bin")->required();
  command->add_option("--seq-len", flags->sequence_length, "T, tokens of a window")
      ->required()
      ->check(CLI::PositiveNumber);
  command->add_option("--batch", flags->batch, "windows at once")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command->add_option("--compute", flags->compute, "type of products")
      ->check(CLI::IsMember({"auto", "f32", "bf16"}))
      ->capture_default_str();
  command->add_option("--device", flags->device, "what computes")
      ->check(CLI::IsMember({"auto", "cpu", "cuda"}))
      ->capture_default_str();
  command->add_option("--format", flags->data.format, "of the data")
      ->check(CLI::IsMember({"auto", "text", "jsonl", "bin"}))
      ->capture_default_str();
  command->add_option("--template", flags->data.row_template, "jsonl: text of a row with {fields}");
  command->add_option("--first-row", flags->data.first_row, "jsonl: first row");
  command->add_option("--last-row", flags->data.last_row, "jsonl: the row after the last");
  command->add_option("--threads", flags->threads, "0: all cores");
  command->add_flag("--json", flags->json, "one JSON object with loss and tokens");
  command->callback([&action, flags] { action = [flags] { return evaluate_file(*flags); }; });
}

}  // namespace ballot
