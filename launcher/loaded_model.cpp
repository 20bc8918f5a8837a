#include "launcher/loaded_model.h"

#include <algorithm>

#include "core/log.h"
#include "models/model_folder.h"
#include "models/stored_weights.h"  // resolved_folder
#include "runtime/run_config.h"

namespace ballot {
namespace {

// No gradients: nothing is trained.
std::vector<ParameterShape> frozen(std::vector<ParameterShape> shapes) {
  for (ParameterShape& shape : shapes) shape.frozen = true;
  return shapes;
}

Compute compute_named(const std::string& name) {
  return name == "auto" ? Compute::automatic : name == "f32" ? Compute::f32 : Compute::bf16;
}

// Of values that the folder holds: a config.json that is wrong may ask for any amount of memory.
ParameterArena make_arena(const std::string& folder, const Architecture& architecture,
                          const std::string& compute, const std::string& device_name) {
  std::string reason;
  const Device device = find_device(architecture, device_name, 0, &reason);
  if (!reason.empty() && !architecture.runs_on(Device::Kind::cuda))
    log_info("--device {}: {}", device_name, reason);
  const std::vector<ParameterShape> shapes = architecture.parameter_shapes();
  check_parameters(folder, shapes);
  return {frozen(shapes), resolve_compute(compute_named(compute), device), device};
}

}  // namespace

LoadedModel::LoadedModel(const std::string& named_folder, const std::string& compute,
                         const std::string& device)
    : LoadedModel(Resolved{resolved_folder(named_folder)}, compute, device) {}

LoadedModel::LoadedModel(const Resolved& at, const std::string& compute, const std::string& device)
    : architecture(read_architecture(at.folder)),
      tokenizer(read_tokenizer(at.folder)),
      arena(make_arena(at.folder, *architecture, compute, device)) {
  load_parameters(at.folder, arena);
  model = architecture->make_model(arena, arena.device());
}

}  // namespace ballot
