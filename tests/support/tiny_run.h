// A whole small run for tests: a random Llama with a byte tokenizer, some text, and a configuration
// over them.
#pragma once

#include <filesystem>
#include <string>

#include "core/file.h"
#include "models/architecture.h"
#include "models/llama/llama_model.h"
#include "models/model_folder.h"
#include "models/tokenizer.h"
#include "runtime/run_config.h"
#include "tests/support/temporary_folder.h"

namespace ballot {

struct TinyShape {
  std::int64_t hidden = 64, layers = 2, heads = 4, key_value_heads = 2, intermediate = 96;
  bool tied = false;
};

inline void write_tiny_model(const std::string& folder, TinyShape shape = {},
                             std::uint64_t seed = 7) {
  LlamaConfig config;
  config.hidden_size = shape.hidden;
  config.layers = shape.layers;
  config.heads = shape.heads;
  config.key_value_heads = shape.key_value_heads;
  config.head_size = shape.hidden / shape.heads;
  config.intermediate_size = shape.intermediate;
  config.tied_head = shape.tied;
  config.vocabulary = 258;
  config.max_positions = 256;
  config.bos_token = 256;
  config.eos_tokens = {257};
  const ParameterArena arena(llama_parameter_shapes(config), DType::f32);
  initialize_llama(config, arena, seed);
  std::filesystem::create_directories(folder);
  write_file_synced(folder + "/config.json", to_json(config));
  write_file_synced(folder + "/tokenizer.json", byte_tokenizer_json());
  write_file_synced(folder + "/tokenizer_config.json", byte_tokenizer_config_json());
  save_parameters(folder, arena);
}

// Text with a pattern to learn, in lower-case letters, spaces and full stops only.
inline std::string tiny_text(int sentences = 400) {
  std::string text;
  const char* subjects[] = {"the cat", "a dog", "my friend", "one bird", "the fox"};
  const char* verbs[] = {"sees", "likes", "follows", "hears"};
  for (int i = 0; i < sentences; ++i)
    text += std::string(subjects[i * 7 % 5]) + " " + verbs[i * 3 % 4] + " " + subjects[i * 11 % 5] +
            ". ";
  return text;
}

// A folder with model/, train.txt, held-out.txt; run() gives a configuration that writes to
// FOLDER/<name>.
class TinyRun {
 public:
  explicit TinyRun(TinyShape shape = {}) {
    write_tiny_model(folder_.file("model"), shape);
    write_file_synced(folder_.file("train.txt"), tiny_text());
    write_file_synced(folder_.file("held-out.txt"), tiny_text(40));
  }

  RunConfig run(const std::string& name, const std::string& more = "",
                const std::vector<std::string>& settings = {}) const {
    return parse_run_config(
        "[model]\nfolder = \"" + folder_.file("model") + "\"\n[data]\ntrain = \"" +
            folder_.file("train.txt") + "\"\nvalidation = \"" + folder_.file("held-out.txt") +
            "\"\nsequence_length = 16\n[output]\nfolder = \"" + folder_.file(name) +
            "\"\n[train]\nbatch = 2\nsteps = 6\nthreads = 1\nvalidation_windows = 8\n" + more,
        "test.toml", settings);
  }
  std::string path(const std::string& name) const { return folder_.file(name); }

 private:
  TemporaryFolder folder_;
};

}  // namespace ballot
