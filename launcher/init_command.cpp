// `ballot init`: a new Llama with random weights and a byte tokenizer, as a Hugging Face folder.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <filesystem>
#include <memory>
#include <string>

#include "core/error.h"
#include "core/file.h"
#include "launcher/commands.h"
#include "models/llama/llama_model.h"
#include "models/model_folder.h"
#include "models/tokenizer.h"

namespace ballot {
namespace {

struct InitFlags {
  LlamaConfig config;
  std::uint64_t seed = 1;
  std::string folder;
};

int init(InitFlags flags) {
  LlamaConfig& config = flags.config;
  if (std::filesystem::exists(flags.folder + "/config.json"))
    throw ConfigError("--out {}: there is a model in it already", flags.folder);
  if (config.hidden_size % config.heads != 0)
    throw ConfigError("--hidden {} is not a multiple of --heads {}", config.hidden_size,
                      config.heads);
  if (config.key_value_heads == 0) config.key_value_heads = config.heads;
  if (config.intermediate_size == 0)
    config.intermediate_size = (config.hidden_size * 8 / 3 + 63) / 64 * 64;
  config.head_size = config.hidden_size / config.heads;
  config.vocabulary = 258;
  config.bos_token = 256;
  config.eos_token = 257;
  const std::string json = to_json(config);
  parse_llama_config(json, "the command line");  // the same checks as for any config.json
  const ParameterArena arena(llama_parameter_shapes(config), DType::f32);
  initialize_llama(config, arena, flags.seed);
  std::filesystem::create_directories(flags.folder);
  write_file_synced(flags.folder + "/config.json", json);
  write_file_synced(flags.folder + "/tokenizer.json", byte_tokenizer_json());
  write_file_synced(flags.folder + "/tokenizer_config.json", byte_tokenizer_config_json());
  save_parameters(flags.folder, arena);
  sync_folder(flags.folder);
  fmt::print("{}: {} parameters\n", flags.folder, arena.count());
  return 0;
}

}  // namespace

void add_init(CLI::App& app, Action& action) {
  auto flags = std::make_shared<InitFlags>();
  LlamaConfig& config = flags->config;
  config.layers = 4;
  config.heads = 6;
  config.hidden_size = 192;
  config.max_positions = 1024;
  CLI::App* command =
      app.add_subcommand("init", "a new Llama with random weights and a byte tokenizer");
  command->add_option("--out", flags->folder, "folder to write")->required();
  command->add_option("--hidden", config.hidden_size, "C")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command->add_option("--layers", config.layers, "L")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command->add_option("--heads", config.heads, "H")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command->add_option("--kv-heads", config.key_value_heads, "K; 0: as many as heads")
      ->capture_default_str();
  command->add_option("--intermediate", config.intermediate_size, "MLP width; 0: 8/3 C")
      ->capture_default_str();
  command->add_option("--max-positions", config.max_positions, "")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command->add_flag("--tied", config.tied_head, "the embedding is also the output head");
  command->add_option("--seed", flags->seed, "")->capture_default_str();
  command->callback([&action, flags] { action = [flags] { return init(*flags); }; });
}

}  // namespace ballot
