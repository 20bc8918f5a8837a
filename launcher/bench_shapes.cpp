#include "launcher/bench_shapes.h"

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <limits>

#include "core/error.h"
#include "core/parameter_arena.h"  // kRowAlignment
#include "models/model_folder.h"

namespace ballot {
namespace {

struct LlamaShape {
  const char* name;
  std::int64_t hidden, intermediate, layers, heads, key_value_heads, head_size, vocabulary;
  bool tied;
};

// As in the config.json of each model on the Hugging Face hub.
constexpr LlamaShape kLlamas[] = {
    {"llama-3.2-1b", 2048, 8192, 16, 32, 8, 64, 128256, true},
    {"llama-3.2-3b", 3072, 8192, 28, 24, 8, 128, 128256, true},
    {"llama-3.1-8b", 4096, 14336, 32, 32, 8, 128, 128256, false},
    {"llama-2-7b", 4096, 11008, 32, 32, 32, 128, 32000, false},
    {"tinyllama-1.1b", 2048, 5632, 22, 32, 4, 64, 32000, false},
    {"smollm2-135m", 576, 1536, 30, 9, 3, 64, 49152, true},
};

LlamaConfig config_of(const LlamaShape& shape) {
  LlamaConfig config;
  config.hidden_size = shape.hidden;
  config.intermediate_size = shape.intermediate;
  config.layers = shape.layers;
  config.heads = shape.heads;
  config.key_value_heads = shape.key_value_heads;
  config.head_size = shape.head_size;
  config.vocabulary = shape.vocabulary;
  config.tied_head = shape.tied;
  config.max_positions = 131072;
  return config;
}

// GPT-2 small (Radford et al. 2019): matrices as its checkpoints store them (in, out), head tied.
std::vector<ParameterShape> gpt2_shapes() {
  constexpr std::int64_t kWidth = 768;
  std::vector<ParameterShape> shapes;
  const auto matrix = [&](const std::string& name, std::int64_t rows, std::int64_t cols) {
    shapes.push_back({name, ParameterKind::hidden_matrix, rows, cols});
  };
  const auto vector = [&](const std::string& name, std::int64_t cols) {
    shapes.push_back({name, ParameterKind::vector, 1, cols});
  };
  const auto norm = [&](const std::string& name) {
    vector(name + ".bias", kWidth);
    vector(name + ".weight", kWidth);
  };
  const auto affine = [&](const std::string& name, std::int64_t rows, std::int64_t cols) {
    vector(name + ".bias", cols);
    matrix(name + ".weight", rows, cols);
  };
  norm("ln_f");
  for (int layer = 11; layer >= 0; --layer) {
    const std::string prefix = "h." + std::to_string(layer);
    affine(prefix + ".mlp.c_proj", 4 * kWidth, kWidth);
    affine(prefix + ".mlp.c_fc", kWidth, 4 * kWidth);
    norm(prefix + ".ln_2");
    affine(prefix + ".attn.c_proj", kWidth, kWidth);
    affine(prefix + ".attn.c_attn", kWidth, 3 * kWidth);
    norm(prefix + ".ln_1");
  }
  shapes.push_back({"wpe.weight", ParameterKind::embedding, 1024, kWidth});
  shapes.push_back({"wte.weight", ParameterKind::embedding, 50257, kWidth, true});
  return shapes;
}

BenchShapes with_counts(std::string name, const std::vector<ParameterShape>& all) {
  BenchShapes shapes;
  shapes.name = std::move(name);
  for (const ParameterShape& shape : all) {
    shapes.all_elements += shape.rows * shape.cols;
    if (shape.kind == ParameterKind::vector) continue;
    shapes.voted_elements += shape.rows * shape.cols;
    shapes.voted.push_back(shape);
  }
  return shapes;
}

}  // namespace

std::vector<std::string> named_models() {
  std::vector<std::string> names;
  for (const LlamaShape& shape : kLlamas) names.emplace_back(shape.name);
  names.emplace_back("gpt2");
  return names;
}

std::optional<LlamaConfig> named_llama(const std::string& name) {
  for (const LlamaShape& shape : kLlamas)
    if (name == shape.name) return config_of(shape);
  return std::nullopt;
}

BenchShapes model_shapes(const std::string& name_or_folder) {
  for (const LlamaShape& shape : kLlamas)
    if (name_or_folder == shape.name)
      return with_counts(shape.name, llama_parameter_shapes(config_of(shape)));
  if (name_or_folder == "gpt2") return with_counts("gpt2", gpt2_shapes());
  if (std::filesystem::exists(name_or_folder + "/config.json"))
    return with_counts(name_or_folder, llama_parameter_shapes(read_model_config(name_or_folder)));
  throw ConfigError("--model {}: expected {} or a folder with a config.json", name_or_folder,
                    fmt::join(named_models(), ", "));
}

BenchShapes flat_shapes(std::int64_t count) {
  constexpr std::int64_t kCols = 4096, kRows = 4096;
  std::vector<ParameterShape> shapes;
  const auto add = [&](std::int64_t rows, std::int64_t cols) {
    if (rows > 0 && cols > 0)
      shapes.push_back(
          {"matrix." + std::to_string(shapes.size()), ParameterKind::hidden_matrix, rows, cols});
  };
  for (; count >= kRows * kCols; count -= kRows * kCols) add(kRows, kCols);
  add(count / kCols, kCols);
  add(1, count % kCols);
  BenchShapes result = with_counts("", shapes);
  result.name = std::to_string(result.voted_elements) + " elements";
  return result;
}

std::int64_t parse_count(const std::string& text) {
  struct Suffix {
    const char* name;
    std::int64_t factor;
  };
  constexpr Suffix kSuffixes[] = {
      {"", 1},         {"k", 1'000},    {"M", 1'000'000}, {"G", 1'000'000'000},
      {"Ki", 1 << 10}, {"Mi", 1 << 20}, {"Gi", 1 << 30}};
  std::int64_t count = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), count);
  const std::string rest = error == std::errc{} ? std::string(end) : "?";
  for (const Suffix& suffix : kSuffixes)
    if (rest == suffix.name && count >= 1 && count <= (std::int64_t{1} << 42) / suffix.factor)
      return count * suffix.factor;
  throw ConfigError(
      "--elements {}: expected a number of 1 or more such as 64M (k, M, G; Ki, Mi, Gi)", text);
}

BallotLayout ballot_layout(const BenchShapes& shapes) {
  std::vector<BallotSegment> segments;
  std::int64_t arena = 0;
  for (const ParameterShape& shape : shapes.voted) {
    BallotSegment segment;
    segment.name = shape.name;
    segment.rows = shape.rows;
    segment.cols = shape.cols;
    segment.row_stride = (shape.cols + kRowAlignment - 1) / kRowAlignment * kRowAlignment;
    segment.arena_offset = arena;
    arena += (segment.extent() + kArenaAlignment - 1) / kArenaAlignment * kArenaAlignment;
    segments.push_back(segment);
  }
  return BallotLayout(std::move(segments));
}

}  // namespace ballot
