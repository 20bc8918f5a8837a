// `ballot init`: a new model with random weights and a byte tokenizer, as a Hugging Face folder.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <filesystem>
#include <memory>
#include <string>
#include <utility>

#include "core/error.h"
#include "core/file.h"
#include "launcher/commands.h"
#include "models/architecture.h"
#include "models/model_folder.h"
#include "models/tokenizer.h"

namespace ballot {
namespace {

struct InitFlags {
  std::string model_type = "llama";
  ModelSize size;
  std::uint64_t seed = 1;
  std::string folder;
};

int init(InitFlags flags) {
  if (std::filesystem::exists(flags.folder + "/config.json"))
    throw ConfigError("--out {}: there is a model in it already", flags.folder);
  for (const auto& [flag, value] : {std::pair{"--kv-heads", flags.size.key_value_heads},
                                    std::pair{"--intermediate", flags.size.intermediate}})
    if (value < 0) throw ConfigError("{} {}: expected 0 (the family's own) or more", flag, value);
  if (flags.size.hidden % flags.size.heads != 0)
    throw ConfigError("--hidden {} is not a multiple of --heads {}", flags.size.hidden,
                      flags.size.heads);
  flags.size.vocabulary = 258;
  flags.size.bos_token = 256;
  flags.size.eos_token = 257;
  const std::unique_ptr<Architecture> architecture = new_architecture(flags.model_type, flags.size);
  const ParameterArena arena(architecture->parameter_shapes(), DType::f32);
  architecture->initialize(arena, flags.seed);
  std::filesystem::create_directories(flags.folder);
  write_file_synced(flags.folder + "/config.json", architecture->to_json());
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
  ModelSize& size = flags->size;
  size.layers = 4;
  size.heads = 6;
  size.hidden = 192;
  size.max_positions = 1024;
  CLI::App* command =
      app.add_subcommand("init", "a new model with random weights and a byte tokenizer");
  command->add_option("--out", flags->folder, "folder to write")->required();
  command->add_option("--family", flags->model_type, "model_type")
      ->check(CLI::IsMember(model_types()))
      ->capture_default_str();
  command->add_option("--hidden", size.hidden, "C")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command->add_option("--layers", size.layers, "L")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command->add_option("--heads", size.heads, "H")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command->add_option("--kv-heads", size.key_value_heads, "K; 0: as many as heads")
      ->capture_default_str();
  command
      ->add_option("--intermediate", size.intermediate,
                   "MLP width; 0: the family's (8/3 C of a Llama, 4 C of a GPT-2)")
      ->capture_default_str();
  command->add_option("--max-positions", size.max_positions, "")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command->add_flag("--tied", size.tied, "the embedding is also the output head");
  command->add_option("--seed", flags->seed, "")->capture_default_str();
  command->callback([&action, flags] { action = [flags] { return init(*flags); }; });
}

}  // namespace ballot
