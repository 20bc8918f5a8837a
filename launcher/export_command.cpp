// `ballot export`: a model folder or a checkpoint as a folder for other programs.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "core/clock.h"
#include "core/error.h"
#include "core/parallel.h"
#include "launcher/commands.h"
#include "launcher/environment.h"
#include "launcher/units.h"
#include "models/model_export.h"

namespace ballot {
namespace {

struct ExportFlags {
  std::string from, to, type = "f32", max_shard_size = "5GB";
  int threads = 0;
  bool json = false;
};

int run_export(const ExportFlags& flags) {
  set_thread_count(flags.threads > 0 ? flags.threads : default_threads(1));
  const Stopwatch watch;
  ExportOptions options;
  options.type = flags.type == "bf16" ? StoredType::bf16 : StoredType::f32;
  options.max_shard_bytes = parse_bytes("--max-shard-size", flags.max_shard_size);
  const ExportedModel done = export_model(flags.from, flags.to, options);
  const double seconds = watch.elapsed();
  if (flags.json) {
    const nlohmann::ordered_json result = {{"folder", flags.to},
                                           {"type", flags.type},
                                           {"parameters", done.parameters},
                                           {"weight_bytes", done.weight_bytes},
                                           {"weight_files", done.weight_files},
                                           {"side_files", done.side_files},
                                           {"seconds", seconds}};
    fmt::print("{}\n", result.dump());
  } else {
    fmt::print("{}: {} parameters in {}, {} in {} file{}, and {} other files ({}, {}/s)\n",
               flags.to, done.parameters, flags.type,
               bytes_text(static_cast<double>(done.weight_bytes)), done.weight_files,
               done.weight_files == 1 ? "" : "s", done.side_files, duration_text(seconds),
               bytes_text(static_cast<double>(done.weight_bytes) / seconds));
  }
  return 0;
}

}  // namespace

void add_export(CLI::App& app, Action& action) {
  auto flags = std::make_shared<ExportFlags>();
  CLI::App* command = app.add_subcommand(
      "export", "a model or checkpoint as a folder for other programs, in f32 or bf16");
  command->add_option("from", flags->from, "model folder, or a checkpoint of a run")->required();
  command->add_option("to", flags->to, "folder to make")->required();
  command->add_option("--type", flags->type, "of the numbers written")
      ->check(CLI::IsMember({"f32", "bf16"}))
      ->capture_default_str();
  command
      ->add_option("--max-shard-size", flags->max_shard_size,
                   "of a file of weights: 5GB (powers of ten), 4GiB (of two)")
      ->capture_default_str();
  command->add_option("--threads", flags->threads, "0: all cores");
  command->add_flag("--json", flags->json, "one JSON object");
  command->callback([&action, flags] { action = [flags] { return run_export(*flags); }; });
}

}  // namespace ballot
