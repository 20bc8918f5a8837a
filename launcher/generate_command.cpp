// `ballot generate`: continues a text, token by token.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <iostream>
#include <iterator>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "core/clock.h"
#include "core/error.h"
#include "core/parallel.h"
#include "launcher/commands.h"
#include "launcher/environment.h"
#include "launcher/loaded_model.h"
#include "models/chat_template.h"
#include "runtime/decoding.h"
#include "runtime/text_stream.h"

namespace ballot {
namespace {

struct GenerateFlags {
  std::string model, prompt, chat_template, system, compute = "auto", device = "cpu";
  bool prompt_given = false, json = false;
  std::int64_t max_tokens = 128, threads = 0;
  Sampling sampling;
};

std::string prompt_text(const GenerateFlags& flags) {
  if (flags.prompt_given) return flags.prompt;
  return {std::istreambuf_iterator<char>(std::cin), std::istreambuf_iterator<char>()};
}

// A chat's turn, or a text that follows the token that begins one.
std::vector<std::int32_t> prompt_tokens(const GenerateFlags& flags, const Tokenizer& tokenizer,
                                        const std::optional<ChatTemplate>& chat) {
  const std::string text = prompt_text(flags);
  if (chat) {
    std::vector<ChatMessage> messages;
    if (!flags.system.empty()) messages.push_back({"system", flags.system});
    messages.push_back({"user", text});
    return chat->prompt(messages, "the prompt");
  }
  if (!flags.system.empty())
    throw ConfigError("--system without --chat-template: a plain text has no turns");
  std::vector<std::int32_t> tokens = tokenizer.encode(text);
  if (tokenizer.bos() >= 0) tokens.insert(tokens.begin(), tokenizer.bos());
  if (tokens.empty())
    throw ConfigError("the prompt is empty, and this tokenizer has no token to begin a text with");
  return tokens;
}

const char* to_string(Ended ended) {
  return ended == Ended::stop_token   ? "stop_token"
         : ended == Ended::max_tokens ? "max_tokens"
                                      : "max_length";
}

int generate(const GenerateFlags& flags) {
  set_thread_count(flags.threads > 0 ? static_cast<int>(flags.threads) : default_threads(1));
  // Texts are continued on CPUs only: nothing else is worth choosing.
  const LoadedModel loaded(flags.model, flags.compute,
                           flags.device == "auto" ? "cpu" : flags.device);
  std::optional<ChatTemplate> chat;
  if (!flags.chat_template.empty())
    chat.emplace(read_chat_template(flags.model, flags.chat_template, *loaded.tokenizer));
  const std::vector<std::int32_t> prompt = prompt_tokens(flags, *loaded.tokenizer, chat);
  DecodingLimits limits;
  limits.max_tokens = flags.max_tokens;
  limits.max_length = loaded.architecture->max_positions();
  limits.stop_tokens = read_stop_tokens(flags.model, *loaded.architecture);
  if (chat) limits.stop_tokens.push_back(chat->end_of_turn());  // whatever the model's files say
  TextStream stream(*loaded.tokenizer, prompt);
  const auto tell = [](const std::string& text) {
    std::fwrite(text.data(), 1, text.size(), stdout);
    std::fflush(stdout);
  };
  const Stopwatch watch;
  std::string whole;
  const std::vector<Continuation> texts = continue_texts(
      *loaded.model, {&prompt, 1}, limits, flags.sampling, [&](std::size_t, std::int32_t token) {
        const std::string text = stream.add(token);
        whole += text;
        if (!flags.json) tell(text);
      });
  const std::string rest = stream.finish();
  whole += rest;
  const double seconds = watch.elapsed();
  if (!flags.json) {
    tell(rest + "\n");
    return 0;
  }
  const Continuation& text = texts.front();
  const nlohmann::ordered_json result = {{"text", whole},
                                         {"tokens", text.tokens},
                                         {"prompt_tokens", prompt.size()},
                                         {"ended", to_string(text.ended)},
                                         {"seconds", seconds},
                                         {"compute", to_string(loaded.arena.compute())}};
  fmt::print("{}\n", result.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace));
  return 0;
}

}  // namespace

void add_generate(CLI::App& app, Action& action) {
  auto flags = std::make_shared<GenerateFlags>();
  CLI::App* command = app.add_subcommand("generate", "continue a text");
  command->add_option("--model", flags->model, "Hugging Face folder")->required();
  CLI::Option* prompt =
      command->add_option("prompt", flags->prompt, "what to continue; none: standard input");
  command->add_option("--max-tokens", flags->max_tokens, "new tokens at most")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command
      ->add_option("--temperature", flags->sampling.temperature,
                   "0: always the most likely token; higher: more varied")
      ->check(CLI::Range(0.0, 100.0))
      ->capture_default_str();
  command
      ->add_option("--top-p", flags->sampling.top_p,
                   "draw from the fewest tokens with this probability together")
      ->check(CLI::Range(1e-6, 1.0))
      ->capture_default_str();
  command->add_option("--seed", flags->sampling.seed, "of what is drawn")->capture_default_str();
  command->add_option("--chat-template", flags->chat_template,
                      "the prompt is a user's turn of a chat: auto (the model's own) or a "
                      "template's name");
  command->add_option("--system", flags->system, "the chat's system message");
  command->add_option("--compute", flags->compute, "type of products")
      ->check(CLI::IsMember({"auto", "f32", "bf16"}))
      ->capture_default_str();
  command->add_option("--device", flags->device, "what computes; texts are continued on CPUs only")
      ->check(CLI::IsMember({"auto", "cpu", "cuda"}))
      ->capture_default_str();
  command->add_option("--threads", flags->threads, "0: all cores");
  command->add_flag("--json", flags->json, "one JSON object, when the text has ended");
  command->callback([&action, flags, prompt] {
    flags->prompt_given = prompt->count() > 0;
    action = [flags] { return generate(*flags); };
  });
}

}  // namespace ballot
