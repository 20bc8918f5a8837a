#include "models/architecture.h"

#include <array>
#include <filesystem>
#include <set>

#include "core/error.h"
#include "core/file.h"
#include "core/log.h"
#include "models/gpt2/gpt2_architecture.h"
#include "models/llama/llama_architecture.h"
#include "models/strict_json.h"

namespace ballot {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr std::uint64_t kMaxConfigBytes = std::uint64_t{16} << 20;

struct Family {
  const char* model_type;
  std::unique_ptr<Architecture> (*parse)(const std::string& json_text, const std::string& path);
  std::unique_ptr<Architecture> (*make)(const ModelSize& size);
};

constexpr std::array kFamilies = {
    Family{"llama", parse_llama, new_llama},
    Family{"gpt2", parse_gpt2, new_gpt2},
};

std::string known_types() {
  std::vector<std::string> quoted;
  for (const Family& family : kFamilies) quoted.push_back(shown(family.model_type));
  return fmt::format("{}", fmt::join(quoted, " or "));
}

}  // namespace

std::unique_ptr<Architecture> parse_architecture(const std::string& json_text,
                                                 const std::string& path) {
  const json root = parse_strict_json(json_text, path);
  if (!root.is_object()) throw DataError("{} is {}, expected a JSON object", path, shown(root));
  const auto type = root.find("model_type");
  if (type == root.end()) throw DataError("{} has no model_type, expected {}", path, known_types());
  for (const Family& family : kFamilies)
    if (*type == family.model_type) return family.parse(json_text, path);
  throw DataError("{}: model_type {} is not supported, expected {}", path, shown(*type),
                  known_types());
}

std::unique_ptr<Architecture> read_architecture(const std::string& folder) {
  const std::string path = (fs::path(folder) / "config.json").string();
  return parse_architecture(read_file(path, kMaxConfigBytes), path);
}

std::vector<std::int64_t> read_stop_tokens(const std::string& folder,
                                           const Architecture& architecture) {
  const std::string path = (fs::path(folder) / "generation_config.json").string();
  if (!fs::exists(path)) return architecture.eos_tokens();
  const json root = parse_strict_json(read_file(path, kMaxConfigBytes), path);
  if (!root.is_object()) throw DataError("{} is {}, expected a JSON object", path, shown(root));
  const auto found = root.find("eos_token_id");
  if (found == root.end() || found->is_null()) return architecture.eos_tokens();
  std::vector<std::int64_t> tokens;
  for (const json& id : found->is_array() ? *found : json::array({*found})) {
    if (!id.is_number_integer())
      throw DataError("{}: eos_token_id is {}, expected a token or a list of them", path,
                      shown(id));
    // A family's defaults, beside a vocabulary of one's own: transformers' GPT-2 writes 50256.
    if (id < 0 || id >= architecture.vocabulary())
      log_warning("{}: eos_token_id {} is ignored, the model's tokens are 0 to {}", path, shown(id),
                  architecture.vocabulary() - 1);
    else
      tokens.push_back(id.get<std::int64_t>());
  }
  return tokens.empty() ? architecture.eos_tokens() : tokens;
}

void require_same_architecture(const Architecture& model, const std::string& folder,
                               const std::string& saved) {
  const json now = json::parse(model.to_json());
  const json before = json::parse(read_architecture(saved)->to_json());
  std::set<std::string> keys;
  for (const json* config : {&now, &before})
    for (const auto& [key, value] : config->items()) keys.insert(key);
  const auto value_of = [](const json& config, const std::string& key) {
    const auto found = config.find(key);
    return found == config.end() ? "nothing" : shown(*found);
  };
  std::vector<std::string> differences;
  for (const std::string& key : keys)
    if (value_of(now, key) != value_of(before, key))
      differences.push_back(
          fmt::format("{} is {}, was {}", key, value_of(now, key), value_of(before, key)));
  if (!differences.empty())
    throw DataError("{} is not the model that was saved in {}:\n  {}",
                    (fs::path(folder) / "config.json").string(), saved,
                    fmt::join(differences, "\n  "));
}

Device find_device(const Architecture& architecture, const std::string& name, int local_rank,
                   std::string* reason) {
  if (architecture.runs_on(Device::Kind::cuda) || name == "cpu")
    return find_device(name, local_rank, reason);
  if (name != "auto" && !name.starts_with("cuda")) return find_device(name);  // says what is wrong
  const std::string why =
      fmt::format("models of type {} run on CPUs only", shown(architecture.model_type()));
  if (name != "auto") throw Unavailable("device = {}: {}, expected \"cpu\"", shown(name), why);
  if (reason != nullptr) *reason = "chose the CPU; " + why;
  return {};
}

std::unique_ptr<Architecture> new_architecture(const std::string& model_type,
                                               const ModelSize& size) {
  for (const auto& [name, value] :
       {std::pair{"head_size", size.head_size}, std::pair{"key_value_heads", size.key_value_heads},
        std::pair{"intermediate", size.intermediate}})
    if (value < 0)
      throw ConfigError("a new model's {} is {}, expected 0 (the family's own) or more", name,
                        value);
  for (const Family& family : kFamilies)
    if (model_type == family.model_type) return family.make(size);
  throw ConfigError("a model of type {}: expected {}", shown(model_type), known_types());
}

std::vector<std::string> model_types() {
  std::vector<std::string> types;
  for (const Family& family : kFamilies) types.emplace_back(family.model_type);
  return types;
}

}  // namespace ballot
