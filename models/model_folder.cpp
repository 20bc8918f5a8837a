#include "models/model_folder.h"

#include <algorithm>
#include <filesystem>
#include <memory>

#include "core/error.h"
#include "core/file.h"
#include "core/host_bytes.h"
#include "core/parallel.h"
#include "models/stored_values.h"
#include "models/stored_weights.h"

namespace ballot {
namespace {

namespace fs = std::filesystem;

// Large enough for a disk, small enough for a core's cache.
constexpr std::int64_t kPieceBytes = std::int64_t{4} << 20;

std::vector<ParameterShape> shapes_of(const ParameterArena& arena) {
  std::vector<ParameterShape> shapes;
  for (const Parameter& parameter : arena.parameters()) shapes.push_back(parameter.shape);
  return shapes;
}

// Rows [first, first + rows) of a parameter, and where their numbers are.
struct Piece {
  const Parameter* parameter;
  StoredWeights::Place place;
  std::int64_t first, rows;

  std::uint64_t row_bytes() const {
    return static_cast<std::uint64_t>(parameter->shape.cols) * size_bytes(place.tensor->type);
  }
  std::uint64_t offset() const { return static_cast<std::uint64_t>(first) * row_bytes(); }
  std::uint64_t size() const { return static_cast<std::uint64_t>(rows) * row_bytes(); }
};

// In the order in which they lie in the files.
std::vector<Piece> pieces_of(const StoredWeights& weights, const ParameterArena& arena) {
  std::vector<Piece> pieces;
  for (const Parameter& parameter : arena.parameters()) {
    Piece piece{&parameter, weights.find(parameter.shape.name), 0, 0};
    const std::int64_t most =
        std::max<std::int64_t>(1, kPieceBytes / static_cast<std::int64_t>(piece.row_bytes()));
    for (; piece.first < parameter.shape.rows; piece.first += most) {
      piece.rows = std::min(most, parameter.shape.rows - piece.first);
      pieces.push_back(piece);
    }
  }
  std::ranges::sort(pieces, {}, [](const Piece& piece) {
    return std::pair(piece.place.file, piece.place.tensor->offset + piece.offset());
  });
  return pieces;
}

void load_piece(const StoredWeights& weights, const Piece& piece) {
  const Parameter& parameter = *piece.parameter;
  const HostBytes host(parameter.value.rows(piece.first, piece.first + piece.rows),
                       HostBytes::Holds::zeros);
  auto* target = reinterpret_cast<float*>(host.data());
  const std::int64_t cols = parameter.shape.cols;
  if (piece.place.tensor->type == StoredType::f32 && cols == parameter.row_stride) {
    weights.read(piece.place, piece.offset(), host.bytes().first(piece.size()));
  } else {
    const auto bytes = std::make_unique_for_overwrite<std::byte[]>(piece.size());
    weights.read(piece.place, piece.offset(), {bytes.get(), piece.size()});
    for (std::int64_t row = 0; row < piece.rows; ++row)
      widen(piece.place.tensor->type,
            bytes.get() + static_cast<std::uint64_t>(row) * piece.row_bytes(),
            target + row * parameter.row_stride, cols);
  }
  host.put_back();
}

}  // namespace

void check_parameters(const std::string& folder, std::span<const ParameterShape> shapes) {
  StoredWeights(folder).require_tensors(shapes);
}

void load_parameters(const std::string& folder, const ParameterArena& arena) {
  const StoredWeights weights(folder);
  weights.require_tensors(shapes_of(arena));
  weights.tell_others(shapes_of(arena));
  const std::vector<Piece> pieces = pieces_of(weights, arena);
  const auto load = [&](std::int64_t i) {
    // So many ahead that the disk has work while numbers are converted.
    const std::size_t ahead =
        static_cast<std::size_t>(i) + 2 * static_cast<std::size_t>(thread_count());
    if (ahead < pieces.size())
      weights.expect(pieces[ahead].place, pieces[ahead].offset(), pieces[ahead].size());
    load_piece(weights, pieces[static_cast<std::size_t>(i)]);
  };
  const auto count = static_cast<std::int64_t>(pieces.size());
  if (arena.device().kind == Device::Kind::cpu) {
    parallel_items(count, load);
  } else {
    for (std::int64_t i = 0; i < count; ++i) load(i);
  }
  arena.refresh_compute();
}

void save_parameters(const std::string& folder, const ParameterArena& arena, StoredType type) {
  require(type == StoredType::f32 || type == StoredType::bf16, "parameters saved as {}",
          to_string(type));
  std::vector<const Parameter*> ordered;
  for (const Parameter& parameter : arena.parameters()) ordered.push_back(&parameter);
  std::ranges::sort(ordered, {}, [](const Parameter* p) { return p->shape.name; });

  std::vector<TensorLayout> layout;
  for (const Parameter* parameter : ordered)
    layout.push_back({parameter->shape.name, type, stored_shape(parameter->shape)});
  SafetensorsWriter writer((fs::path(folder) / "model.safetensors").string(), layout,
                           {{"format", "pt"}});

  std::vector<std::byte> gathered;
  for (const Parameter* parameter : ordered) {
    const std::int64_t cols = parameter->shape.cols;
    const std::int64_t row_bytes = cols * static_cast<std::int64_t>(size_bytes(type));
    const std::int64_t most = std::max<std::int64_t>(1, kPieceBytes / row_bytes);
    for (std::int64_t first = 0; first < parameter->shape.rows; first += most) {
      const std::int64_t rows = std::min(most, parameter->shape.rows - first);
      const HostBytes host(parameter->value.rows(first, first + rows));
      if (type == StoredType::f32 && cols == parameter->row_stride) {
        writer.write(host.bytes());
        continue;
      }
      // Without their padding, so that the file is written in large pieces.
      const auto* source = reinterpret_cast<const float*>(host.data());
      gathered.resize(static_cast<std::size_t>(rows * row_bytes));
      parallel_for(rows, std::max<std::int64_t>(1, 65536 / cols),
                   [&](std::int64_t begin, std::int64_t end) {
                     for (std::int64_t row = begin; row < end; ++row)
                       narrow(source + row * parameter->row_stride, type,
                              gathered.data() + row * row_bytes, cols);
                   });
      writer.write(gathered);
    }
  }
  writer.finish();
}

}  // namespace ballot
