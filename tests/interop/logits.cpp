// interop_logits FOLDER TOKENS OUT [SAVED]: the model's logits of one sequence, for those who
// compare them with another program's.
//
// TOKENS: a file of whole numbers; OUT: fp32, (tokens, vocabulary), row after row. SAVED: the
// folder is also written there again, as Ballot saves a model.
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <vector>

#include "core/error.h"
#include "models/architecture.h"
#include "models/model_folder.h"

namespace ballot {
namespace {

void write_logits(const std::string& folder, const std::string& tokens_path,
                  const std::string& out_path, const std::string& saved) {
  const std::unique_ptr<Architecture> architecture = read_architecture(folder);
  const ParameterArena arena(architecture->parameter_shapes(), DType::f32);
  load_parameters(folder, arena);
  const std::unique_ptr<Model> model = architecture->make_model(arena);
  std::ifstream file(tokens_path);
  TokenBatch batch;
  batch.inputs.assign(std::istream_iterator<std::int32_t>(file), {});
  if (batch.inputs.empty()) throw DataError("{} holds no tokens", tokens_path);
  batch.sequences = 1;
  batch.length = static_cast<std::int64_t>(batch.inputs.size());
  batch.targets.assign(batch.inputs.size(), kNoTarget);
  const Tensor logits = model->logits(batch);
  std::ofstream out(out_path, std::ios::binary);
  for (std::int64_t row = 0; row < batch.length; ++row)
    out.write(reinterpret_cast<const char*>(logits.f32() + row * logits.stride[0]),
              static_cast<std::streamsize>(architecture->vocabulary() * 4));
  out.close();
  if (!out) throw_file_error("write", out_path);
  if (saved.empty()) return;
  std::filesystem::create_directories(saved);
  copy_side_files(folder, saved);
  save_parameters(saved, arena);
}

}  // namespace
}  // namespace ballot

int main(int count, char** words) {
  if (count != 4 && count != 5) {
    std::fprintf(stderr, "expected FOLDER TOKENS OUT [SAVED]\n");
    return 2;
  }
  try {
    ballot::write_logits(words[1], words[2], words[3], count == 5 ? words[4] : "");
    return 0;
  } catch (const std::exception& error) {
    const ballot::Failure failure = ballot::describe_failure(error);
    std::fprintf(stderr, "%s\n", failure.message.c_str());
    return static_cast<int>(failure.exit_code);
  }
}
