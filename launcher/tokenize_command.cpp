// `ballot tokenize`: texts become a file of tokens, once, instead of at every start of a run.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <CLI/CLI.hpp>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <system_error>
#include <vector>

#include "core/error.h"
#include "core/parallel.h"
#include "launcher/commands.h"
#include "launcher/data_flags.h"
#include "launcher/environment.h"
#include "models/tokenizer.h"
#include "runtime/data/encode_source.h"
#include "runtime/data/token_file.h"

namespace ballot {
namespace {

struct TokenizeFlags {
  std::string model, output;
  std::vector<std::string> inputs;
  TokenSource data;
  DocumentRules documents;
  TokenFormat format = TokenFormat::ballot;
  std::int64_t threads = 0;
};

int tokenize(const TokenizeFlags& flags) {
  set_thread_count(flags.threads > 0 ? static_cast<int>(flags.threads) : default_threads(1));
  const std::unique_ptr<Tokenizer> tokenizer = read_tokenizer(flags.model);
  const DataReader reader{*tokenizer, flags.documents, flags.model};
  if (std::filesystem::is_directory(flags.output))
    throw ConfigError("--output {} is a folder, expected a file to write", flags.output);
  std::vector<TokenSource> sources;
  for (const std::string& input : flags.inputs) {
    TokenSource source = flags.data;
    source.path = input;
    const std::string format = settled_format(source);
    if (format != "text" && format != "jsonl")
      throw ConfigError("{} holds tokens already ({}), expected texts or .jsonl", input, format);
    for (const std::string& written : {flags.output, flags.output + ".tmp"}) {
      std::error_code absent;
      if (std::filesystem::equivalent(input, written, absent))
        throw ConfigError("--output {} writes {}, which is an input ({})", flags.output, written,
                          input);
    }
    sources.push_back(source);
  }
  TokenFileWriter writer(flags.output, flags.format, tokenizer->vocabulary());
  bool told_apart = flags.documents.train_on == TrainOn::completion, whole_questions = false;
  for (const TokenSource& source : sources) {
    const SourceText file(source.path);
    const RowsSeen seen =
        encode_source(file.text(), source, reader,
                      [&](std::span<const std::uint32_t> words) { writer.write(words); });
    told_apart |= seen.told_apart;
    whole_questions |= seen.whole_questions;
  }
  if (writer.tokens() == 0)
    throw DataError("{}: there are no texts in {}", flags.output, fmt::join(flags.inputs, ", "));
  const bool masked = writer.trained() < writer.predictable();
  if (told_apart && (writer.trained() == 0 || !masked))
    throw DataError(
        "{}: {} of {} tokens would be trained on (--train-on {}); expected rows with prompts and "
        "completions, or --train-on all",
        fmt::join(flags.inputs, ", "), writer.trained() == 0 ? "none" : "all", writer.predictable(),
        to_string(flags.documents.train_on));
  if (flags.format == TokenFormat::llmc && masked)
    throw ConfigError(
        "--format llmc has no place for what is not trained on ({} of {} tokens); expected "
        "--format ballot, or --train-on all",
        writer.predictable() - writer.trained(), writer.predictable());
  writer.finish();
  fmt::print("{}: {} tokens, {} documents, {:.1f} % trained on\n", flags.output, writer.tokens(),
             writer.documents(),
             writer.predictable() == 0 ? 0.0
                                       : 100.0 * static_cast<double>(writer.trained()) /
                                             static_cast<double>(writer.predictable()));
  if (whole_questions)
    fmt::print("questions are trained on like their answers; --train-on completion masks them\n");
  return 0;
}

}  // namespace

void add_tokenize(CLI::App& app, Action& action) {
  auto flags = std::make_shared<TokenizeFlags>();
  CLI::App* command =
      app.add_subcommand("tokenize", "texts and .jsonl files to a file of tokens, for data.train");
  command->add_option("model", flags->model, "Hugging Face folder with the tokenizer")->required();
  command->add_option("inputs", flags->inputs, "texts or .jsonl files, in this order")->required();
  command->add_option("--output", flags->output, "file to write (.bin)")->required();
  const std::map<std::string, TokenFormat> formats = {{"ballot", TokenFormat::ballot},
                                                      {"llmc", TokenFormat::llmc}};
  command
      ->add_option("--format", flags->format,
                   "ballot: with documents and what is trained on; llmc: llm.c's, tokens alone")
      ->transform(CLI::CheckedTransformer(formats))
      ->default_str("ballot");
  command->add_option("--threads", flags->threads, "0: all cores; any number gives the same bytes")
      ->check(CLI::NonNegativeNumber);
  add_data_flags(*command, "--input-format", flags->data, flags->documents);
  command->callback([&action, flags] { action = [flags] { return tokenize(*flags); }; });
}

}  // namespace ballot
