#include "models/model_folder.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <filesystem>
#include <map>

#include "core/error.h"
#include "core/file.h"
#include "core/host_bytes.h"
#include "core/log.h"
#include "core/parallel.h"
#include "models/safetensors_index.h"
#include "models/strict_json.h"

namespace ballot {
namespace {

namespace fs = std::filesystem;

constexpr std::uint64_t kMaxConfigBytes = std::uint64_t{16} << 20;
constexpr std::uint64_t kMaxIndexBytes = std::uint64_t{64} << 20;
constexpr const char* kWeights = "model.safetensors";
constexpr const char* kIndex = "model.safetensors.index.json";
constexpr const char* kHead = "lm_head.weight";
constexpr std::array kSideFiles = {
    "config.json",     "generation_config.json",  "tokenizer.json",    "tokenizer_config.json",
    "tokenizer.model", "special_tokens_map.json", "added_tokens.json", "vocab.json",
    "merges.txt",      "chat_template.jinja",     "chat_template.json"};

// Sources are bytes: a tensor in a file may lie at any address.
BALLOT_VECTORIZED void widen_bf16(const std::byte* __restrict source, float* __restrict target,
                                  std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) {
    std::uint16_t bits;
    std::memcpy(&bits, source + 2 * i, 2);
    target[i] = to_float(bfloat16{bits});
  }
}

// IEEE half -> single, exact, subnormals, infinities and NaN included.
BALLOT_VECTORIZED void widen_f16(const std::byte* __restrict source, float* __restrict target,
                                 std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) {
    std::uint16_t half;
    std::memcpy(&half, source + 2 * i, 2);
    const std::uint32_t sign = static_cast<std::uint32_t>(half & 0x8000u) << 16;
    const std::uint32_t rest = static_cast<std::uint32_t>(half & 0x7fffu) << 13;
    const std::uint32_t normal = rest + (112u << 23);   // exponent bias 15 -> 127
    const std::uint32_t special = rest + (224u << 23);  // exponent 31 -> 255
    // A subnormal is rest * 2^112 in single: put a one above the fraction, subtract it again.
    const float tiny = std::bit_cast<float>(rest + (113u << 23)) - std::bit_cast<float>(113u << 23);
    const std::uint32_t exponent = half & 0x7c00u;
    const std::uint32_t magnitude = exponent == 0         ? std::bit_cast<std::uint32_t>(tiny)
                                    : exponent == 0x7c00u ? special
                                                          : normal;
    target[i] = std::bit_cast<float>(sign | magnitude);
  }
}

BALLOT_VECTORIZED void narrow_bf16(const float* __restrict source, bfloat16* __restrict target,
                                   std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) target[i] = to_bfloat16(source[i]);
}

void widen_row(StoredType type, const std::byte* source, float* target, std::int64_t count) {
  if (type == StoredType::f32) {
    std::memcpy(target, source, static_cast<std::size_t>(count) * 4);
  } else if (type == StoredType::bf16) {
    widen_bf16(source, target, count);
  } else {
    widen_f16(source, target, count);
  }
}

bool is_loadable(StoredType type) {
  return type == StoredType::f32 || type == StoredType::f16 || type == StoredType::bf16;
}

std::vector<std::int64_t> stored_shape(const ParameterShape& shape) {
  if (shape.kind == ParameterKind::vector) return {shape.cols};
  return {shape.rows, shape.cols};
}

// Recomputed by every implementation; some old checkpoints store them.
bool is_rotary_table(const std::string& name) {
  return name.ends_with("rotary_emb.inv_freq");
}

// The weights of a folder: one file, or those that an index names.
class Weights {
 public:
  explicit Weights(const std::string& folder) {
    const fs::path single = fs::path(folder) / kWeights, index = fs::path(folder) / kIndex;
    path_ = single.string();
    if (fs::exists(single) || !fs::exists(index)) {
      files_.emplace_back(single.string());
      return;
    }
    path_ = index.string();
    read_index(folder);
  }

  // What messages name: the file, or the index.
  const std::string& path() const { return path_; }
  const std::vector<SafetensorsReader>& files() const { return files_; }
  const StoredTensor* find(const std::string& name) const {
    if (places_.empty()) return files_.front().find(name);
    const auto place = places_.find(name);
    return place == places_.end() ? nullptr : files_[place->second].find(name);
  }

 private:
  void read_index(const std::string& folder) {
    std::map<std::string, std::size_t> numbers;
    for (const auto& [tensor, file] :
         parse_safetensors_index(read_file(path_, kMaxIndexBytes), path_)) {
      const auto [number, is_new] = numbers.try_emplace(file, numbers.size());
      places_.emplace(tensor, number->second);
    }
    std::vector<std::string> names(numbers.size());
    for (const auto& [name, number] : numbers) names[number] = name;
    for (const std::string& name : names) files_.emplace_back((fs::path(folder) / name).string());
    for (const auto& [tensor, number] : places_)
      if (files_[number].find(tensor) == nullptr)
        throw CorruptFile("{}: tensor {} is not in {}", path_, shown(tensor),
                          files_[number].path());
  }

  std::string path_;
  std::vector<SafetensorsReader> files_;
  std::map<std::string, std::size_t> places_;  // tensor -> number of its file; empty: one file
};

void check_tensors(const Weights& weights, const ParameterArena& arena) {
  std::vector<std::string> problems;
  bool tied = false;
  for (const Parameter& parameter : arena.parameters()) {
    tied = tied || parameter.shape.tied;
    const std::vector<std::int64_t> expected = stored_shape(parameter.shape);
    const StoredTensor* stored = weights.find(parameter.shape.name);
    if (stored == nullptr) {
      problems.push_back(fmt::format("{} is missing, expected ({})", parameter.shape.name,
                                     fmt::join(expected, ", ")));
      continue;
    }
    if (stored->shape != expected)
      problems.push_back(fmt::format("{} is ({}), expected ({})", parameter.shape.name,
                                     fmt::join(stored->shape, ", "), fmt::join(expected, ", ")));
    if (!is_loadable(stored->type))
      problems.push_back(fmt::format("{} has type {}, expected F32, F16 or BF16",
                                     parameter.shape.name, to_string(stored->type)));
  }
  const std::string& path = weights.path();
  if (!problems.empty())
    throw DataError("{}: {}", path, fmt::join(problems, fmt::format("\n{}: ", path)));

  std::vector<std::string> extra;
  for (const SafetensorsReader& file : weights.files())
    for (const StoredTensor& stored : file.tensors())
      if (arena.find_or_null(stored.name) == nullptr && !is_rotary_table(stored.name) &&
          !(tied && stored.name == kHead))
        extra.push_back(stored.name);
  if (extra.empty()) return;
  const std::size_t count = extra.size();
  if (count > 5) {
    extra.resize(5);
    extra.push_back("...");
  }
  log_warning("{}: {} tensors that this model does not have are ignored: {}", path, count,
              fmt::join(extra, ", "));
}

constexpr std::int64_t kPieceElements = std::int64_t{1} << 22;

// Pieces of whole rows, of a size that a file or another device takes well.
template <class Body>
void for_each_piece(const Parameter& parameter, const Body& body) {
  const std::int64_t most = std::max<std::int64_t>(1, kPieceElements / parameter.row_stride);
  for (std::int64_t first = 0; first < parameter.shape.rows; first += most)
    body(first, std::min(most, parameter.shape.rows - first));
}

// Rows of a stored tensor, widened, into rows that are row_stride apart.
void widen_rows(const StoredTensor& stored, const Parameter& parameter, std::int64_t first,
                std::int64_t rows, float* target) {
  const std::int64_t cols = parameter.shape.cols;
  const std::int64_t stored_stride = cols * static_cast<std::int64_t>(size_bytes(stored.type));
  const std::byte* source = stored.bytes.data() + first * stored_stride;
  parallel_for(rows, std::max<std::int64_t>(1, 65536 / cols),
               [&](std::int64_t begin, std::int64_t end) {
                 for (std::int64_t row = begin; row < end; ++row)
                   widen_row(stored.type, source + row * stored_stride,
                             target + row * parameter.row_stride, cols);
               });
}

}  // namespace

LlamaConfig read_model_config(const std::string& folder) {
  const std::string path = (fs::path(folder) / "config.json").string();
  return parse_llama_config(read_file(path, kMaxConfigBytes), path);
}

void load_parameters(const std::string& folder, const ParameterArena& arena) {
  const Weights weights(folder);
  check_tensors(weights, arena);
  for (const Parameter& parameter : arena.parameters()) {
    const StoredTensor& stored = *weights.find(parameter.shape.name);
    for_each_piece(parameter, [&](std::int64_t first, std::int64_t rows) {
      const HostBytes host(parameter.value.rows(first, first + rows), HostBytes::Holds::zeros);
      widen_rows(stored, parameter, first, rows, reinterpret_cast<float*>(host.data()));
      host.put_back();
    });
  }
  arena.refresh_compute();
}

void save_parameters(const std::string& folder, const ParameterArena& arena, StoredType type) {
  require(type == StoredType::f32 || type == StoredType::bf16, "parameters saved as {}",
          to_string(type));
  std::vector<const Parameter*> ordered;
  for (const Parameter& parameter : arena.parameters()) ordered.push_back(&parameter);
  std::sort(ordered.begin(), ordered.end(),
            [](const Parameter* a, const Parameter* b) { return a->shape.name < b->shape.name; });

  std::vector<TensorLayout> layout;
  for (const Parameter* parameter : ordered)
    layout.push_back({parameter->shape.name, type, stored_shape(parameter->shape)});
  SafetensorsWriter writer((fs::path(folder) / kWeights).string(), layout, {{"format", "pt"}});

  // Rows are gathered without their padding, so that the file is written in large pieces.
  std::vector<std::byte> piece;
  for (const Parameter* parameter : ordered) {
    const std::int64_t cols = parameter->shape.cols;
    const std::int64_t stored_stride = cols * static_cast<std::int64_t>(size_bytes(type));
    for_each_piece(*parameter, [&](std::int64_t first, std::int64_t rows) {
      const HostBytes host(parameter->value.rows(first, first + rows));
      const auto* source = reinterpret_cast<const float*>(host.data());
      piece.resize(static_cast<std::size_t>(rows * stored_stride));
      for (std::int64_t row = 0; row < rows; ++row) {
        const float* from = source + row * parameter->row_stride;
        std::byte* to = piece.data() + row * stored_stride;
        if (type == StoredType::f32) {
          std::memcpy(to, from, static_cast<std::size_t>(stored_stride));
        } else {
          narrow_bf16(from, reinterpret_cast<bfloat16*>(to), cols);
        }
      }
      writer.write(piece);
    });
  }
  writer.finish();
}

std::vector<std::string> side_files(const std::string& source) {
  std::vector<std::string> names;
  for (const char* name : kSideFiles)
    if (std::string_view(name) == "config.json" || fs::exists(fs::path(source) / name))
      names.emplace_back(name);
  return names;
}

void copy_side_files(const std::string& source, const std::string& target) {
  std::error_code ignored;
  if (fs::equivalent(source, target, ignored))
    return;  // writing would empty the file before it is read
  for (const std::string& name : side_files(source))
    write_file_synced((fs::path(target) / name).string(),
                      std::string_view(read_file((fs::path(source) / name).string())));
}

}  // namespace ballot
