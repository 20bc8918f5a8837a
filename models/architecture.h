// What a config.json says a model is: its parameters, how it is built and initialised, and the
// facts that data and texts are checked against.
//
// Everything outside models/ meets a model here and at Model; the families themselves
// (models/llama, models/gpt2) are listed by their model_type in architecture.cpp and nowhere else.
// A new family is a folder and a line there. Immutable; readable from any thread.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/device.h"           // Device
#include "core/parameter_arena.h"  // ParameterArena, ParameterShape
#include "models/model.h"          // Model

namespace ballot {

class Architecture {
 public:
  virtual ~Architecture() = default;

  virtual std::string model_type() const = 0;  // "llama"

  // In backward order, which is the order the model reports gradients in. By the names that
  // transformers saves.
  virtual std::vector<ParameterShape> parameter_shapes() const = 0;
  virtual bool runs_on(Device::Kind kind) const = 0;
  // `arena` must hold parameter_shapes(), lie on `device` and outlive the model. Unavailable where
  // the family does not run on such a device.
  virtual std::unique_ptr<Model> make_model(const ParameterArena& arena,
                                            Device device = {}) const = 0;
  // Fresh values: a pure function of the seed and the element's place, whatever the thread count.
  virtual void initialize(const ParameterArena& arena, std::uint64_t seed) const = 0;

  virtual std::int64_t vocabulary() const = 0;               // V
  virtual std::int64_t max_positions() const = 0;            // the longest sequence
  virtual std::int64_t bos_token() const = 0;                // -1: none
  virtual std::vector<std::int64_t> eos_tokens() const = 0;  // any of them ends a text

  // A config.json that transformers reads.
  virtual std::string to_json() const = 0;
};

// Of config.json's text; `path` stands in messages. Everything wrong is told at once, by key, value
// and what was expected; what is not supported is refused by name (DataError, CorruptFile).
std::unique_ptr<Architecture> parse_architecture(const std::string& json_text,
                                                 const std::string& path);
// DIR/config.json's.
std::unique_ptr<Architecture> read_architecture(const std::string& folder);

// `saved` (a checkpoint's folder) holds this very model, which was read from `folder`: shapes may
// be equal where positions, norms or angles are not. DataError naming each key that differs.
void require_same_architecture(const Architecture& model, const std::string& folder,
                               const std::string& saved);

// core/device.h's, of what this family runs on: "auto" is the CPU where it runs on no GPU, and
// *reason says so; Unavailable where a device that is named is none for it.
Device find_device(const Architecture& architecture, const std::string& name, int local_rank = 0,
                   std::string* reason = nullptr);

// The tokens that end a generated text: generation_config.json's where the folder has one that says
// so, else config.json's. Those that are not in the vocabulary are told in the log and ignored.
std::vector<std::int64_t> read_stop_tokens(const std::string& folder,
                                           const Architecture& architecture);

// What a new model is to be like; 0 leaves it to the family.
struct ModelSize {
  std::int64_t hidden = 0;           // C
  std::int64_t layers = 0;           // L
  std::int64_t heads = 0;            // H
  std::int64_t key_value_heads = 0;  // K; 0: as many as heads
  std::int64_t head_size = 0;        // D; 0: C / H
  std::int64_t intermediate = 0;     // width of the MLP
  std::int64_t vocabulary = 0;
  std::int64_t max_positions = 0;
  bool tied = false;  // the embedding is also the output head
  std::int64_t bos_token = -1;
  std::int64_t eos_token = -1;
};

// ConfigError for a family that is not known, or a size that it cannot have.
std::unique_ptr<Architecture> new_architecture(const std::string& model_type,
                                               const ModelSize& size);
std::vector<std::string> model_types();  // "llama", "gpt2"

}  // namespace ballot
