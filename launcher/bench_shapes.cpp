#include "launcher/bench_shapes.h"

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <limits>

#include "core/error.h"
#include "core/parameter_arena.h"  // kRowAlignment
#include "models/published.h"

namespace ballot {
namespace {

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

BenchShapes model_shapes(const std::string& name_or_folder) {
  if (const std::unique_ptr<Architecture> known = published_model(name_or_folder))
    return with_counts(name_or_folder, known->parameter_shapes());
  if (std::filesystem::exists(name_or_folder + "/config.json"))
    return with_counts(name_or_folder, read_architecture(name_or_folder)->parameter_shapes());
  throw ConfigError("--model {}: expected {} or a folder with a config.json", name_or_folder,
                    fmt::join(published_models(), ", "));
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
