// `ballot eval`: the mean loss of a model on a file, in nats per predicted token; or how many
// questions it answers rightly.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "core/clock.h"
#include "core/error.h"
#include "core/parallel.h"
#include "launcher/commands.h"
#include "launcher/data_flags.h"
#include "launcher/environment.h"
#include "launcher/loaded_model.h"
#include "runtime/answers.h"
#include "runtime/evaluation.h"
#include "runtime/run_config.h"

namespace ballot {
namespace {

struct EvalFlags {
  std::string model, compute = "f32", device = "cpu";
  TokenSource data;
  DocumentRules documents;
  std::int64_t sequence_length = 0, batch = 8, threads = 0;
  std::string questions, shots_file;
  std::int64_t shots = 0, max_tokens = 256, limit = 0;
  bool show = false, json = false;
  std::vector<std::string> given;  // names of the flags on the command line
};

// Flags that the other kind of evaluation has no use for.
void refuse_others(const EvalFlags& flags) {
  const bool asks = !flags.questions.empty();
  const std::vector<std::string> others =
      asks ? std::vector<std::string>{"--seq-len",  "--format",   "--template",      "--first-row",
                                      "--last-row", "--train-on", "--chat-template", "--windows"}
           : std::vector<std::string>{"--shots", "--shots-file", "--max-tokens", "--limit",
                                      "--show"};
  for (const std::string& name : flags.given)
    if (std::ranges::find(others, name) != others.end())
      throw ConfigError("{} with {}: it is for {} only", name, asks ? "--questions" : "--data",
                        asks ? "--data" : "--questions");
  if (asks && flags.shots == 0 && !flags.shots_file.empty())
    throw ConfigError("--shots-file {} without --shots: expected how many of its rows",
                      flags.shots_file);
}

int evaluate_file(const EvalFlags& flags, const LoadedModel& loaded) {
  if (flags.sequence_length == 0)
    throw ConfigError("--data without --seq-len: expected the tokens of a window");
  const TokenData data =
      read_token_data(flags.data, {*loaded.tokenizer, flags.documents, flags.model});
  const EvaluationWindows windows(data, flags.documents, flags.sequence_length, 0, flags.data.path);
  const Loss loss = evaluate(*loaded.model, windows, flags.batch);
  if (flags.json) {
    const nlohmann::ordered_json result = {{"loss", loss.mean()},
                                           {"tokens", loss.tokens},
                                           {"perplexity", std::exp(loss.mean())},
                                           {"sequence_length", flags.sequence_length},
                                           {"compute", to_string(loaded.arena.compute())},
                                           {"device", to_string(loaded.arena.device())}};
    fmt::print("{}\n", result.dump());
  } else {
    fmt::print("loss {:.6f} nats per token over {} tokens (perplexity {:.3f})\n", loss.mean(),
               loss.tokens, std::exp(loss.mean()));
  }
  return 0;
}

int ask_questions(const EvalFlags& flags, const LoadedModel& loaded) {
  if (flags.shots > 0 && flags.shots_file.empty())
    throw ConfigError("--shots {} without --shots-file: expected the file they are from",
                      flags.shots);
  const std::vector<QuestionAnswer> questions =
      read_questions(flags.questions, 0, flags.limit > 0 ? flags.limit : -1);
  std::vector<QuestionAnswer> shots;
  if (flags.shots > 0) shots = read_questions(flags.shots_file, 0, flags.shots);
  if (static_cast<std::int64_t>(shots.size()) < flags.shots)
    throw DataError("{} has {} rows, --shots {} asks for more", flags.shots_file, shots.size(),
                    flags.shots);
  DecodingLimits limits;
  limits.max_tokens = flags.max_tokens;
  limits.max_length = loaded.architecture->max_positions();
  limits.stop_tokens = read_stop_tokens(flags.model, *loaded.architecture);
  const Stopwatch watch;
  const AnswerScore score =
      ask(*loaded.model, *loaded.tokenizer, questions, shots, flags.batch, limits,
          [&](const AskedQuestion& asked) {
            if (flags.show)
              fmt::print(stderr, "{} {}: {}\n", asked.matches ? "right" : "wrong", asked.index + 1,
                         asked.text);
          });
  const double seconds = watch.elapsed();
  if (flags.json) {
    const nlohmann::ordered_json result = {{"exact_match", score.share()},
                                           {"questions", score.questions},
                                           {"matches", score.matches},
                                           {"without_answer", score.without_answer},
                                           {"shots", flags.shots},
                                           {"max_tokens", flags.max_tokens},
                                           {"seconds", seconds},
                                           {"compute", to_string(loaded.arena.compute())},
                                           {"device", to_string(loaded.arena.device())}};
    fmt::print("{}\n", result.dump());
  } else {
    fmt::print("{} of {} answers match ({:.2f} %); {} have none\n", score.matches, score.questions,
               100 * score.share(), score.without_answer);
  }
  return 0;
}

int evaluate_model(const EvalFlags& flags) {
  set_thread_count(flags.threads > 0 ? static_cast<int>(flags.threads) : default_threads(1));
  if (flags.data.path.empty() == flags.questions.empty())
    throw ConfigError("expected --data (loss) or --questions (exact match), and not both");
  refuse_others(flags);
  // Texts are continued on CPUs only.
  const bool asks = !flags.questions.empty();
  const LoadedModel loaded(flags.model, flags.compute,
                           asks && flags.device == "auto" ? "cpu" : flags.device);
  return flags.questions.empty() ? evaluate_file(flags, loaded) : ask_questions(flags, loaded);
}

}  // namespace

void add_eval(CLI::App& app, Action& action) {
  auto flags = std::make_shared<EvalFlags>();
  CLI::App* command = app.add_subcommand(
      "eval", "mean loss of a model on a file, in nats per predicted token, or exact answers");
  command->add_option("--model", flags->model, "Hugging Face folder")->required();
  command->add_option("--data", flags->data.path, "text, .jsonl or .bin");
  command->add_option("--seq-len", flags->sequence_length, "T, tokens of a window")
      ->check(CLI::PositiveNumber);
  command->add_option("--questions", flags->questions,
                      ".jsonl with question and answer, which ends in \"#### 42\": exact match");
  command->add_option("--shots", flags->shots, "answered questions before each")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  command->add_option("--shots-file", flags->shots_file, "the first rows of this file");
  command->add_option("--max-tokens", flags->max_tokens, "of an answer")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command->add_option("--limit", flags->limit, "questions asked; 0: all")
      ->check(CLI::NonNegativeNumber);
  command->add_flag("--show", flags->show, "each answer, on standard error");
  command->add_option("--batch", flags->batch, "windows or questions at once")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command->add_option("--compute", flags->compute, "type of products")
      ->check(CLI::IsMember({"auto", "f32", "bf16"}))
      ->capture_default_str();
  command->add_option("--device", flags->device, "what computes")
      ->check(CLI::IsMember({"auto", "cpu", "cuda"}))
      ->capture_default_str();
  add_data_flags(*command, "--format", flags->data, flags->documents);
  add_window_flag(*command, flags->documents);
  command->add_option("--threads", flags->threads, "0: all cores");
  command->add_flag("--json", flags->json, "one JSON object");
  command->callback([&action, flags, command] {
    for (const CLI::Option* option : command->get_options())
      if (option->count() > 0) flags->given.push_back(option->get_name());
    action = [flags] { return evaluate_model(*flags); };
  });
}

}  // namespace ballot
