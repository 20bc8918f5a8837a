#include "models/safetensors_index.h"

#include <set>
#include <string_view>

#include "core/error.h"
#include "models/strict_json.h"

namespace ballot {
namespace {

bool is_plain_name(const std::string& name) {
  return !name.empty() && name != "." && name != ".." &&
         name.find_first_of(std::string_view("/\0", 2)) == std::string::npos;
}

}  // namespace

std::map<std::string, std::string> parse_safetensors_index(const std::string& json,
                                                           const std::string& path) {
  const nlohmann::json root = parse_strict_json(json, path);
  const auto map = root.is_object() ? root.find("weight_map") : root.end();
  if (map == root.end() || !map->is_object() || map->empty())
    throw CorruptFile("{} has no \"weight_map\" of tensors to files", path);
  std::map<std::string, std::string> places;
  std::set<std::string> files;
  for (const auto& [tensor, file] : map->items()) {
    if (!file.is_string() || !is_plain_name(file.get<std::string>()))
      throw CorruptFile("{}: tensor {} is in {}, expected the name of a file beside it", path,
                        shown(tensor), shown(file));
    files.insert(file.get<std::string>());
    if (files.size() > kMaxIndexedFiles)
      throw CorruptFile("{} names more than {} files", path, kMaxIndexedFiles);
    places.emplace(tensor, file.get<std::string>());
  }
  return places;
}

}  // namespace ballot
