// `ballot selftest`.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <memory>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/parallel.h"
#include "core/version.h"
#include "launcher/bench_shapes.h"
#include "launcher/commands.h"
#include "launcher/environment.h"
#include "launcher/selftest.h"

namespace ballot {
namespace {

struct SelftestFlags {
  std::string device = "cuda", elements = "256Mi";
  bool rates = true, json = false;
};

void print(const SelftestCheck& check) {
  fmt::print("  {}  {}: {}\n", check.passed ? "ok    " : "FAILED", check.name, check.detail);
}

void print(const SelftestRate& rate) {
  fmt::print("  {:<52} {:8.1f} {}", rate.name, rate.rate, rate.unit);
  if (rate.bound > 0) fmt::print("  = {:.2f} {}", rate.rate / rate.bound, rate.bound_name);
  fmt::print("\n");
}

void print_json(Device device, const Selftest& result) {
  nlohmann::ordered_json checks = nlohmann::ordered_json::array(), rates = checks;
  for (const SelftestCheck& check : result.checks)
    checks.push_back({{"name", check.name}, {"passed", check.passed}, {"detail", check.detail}});
  for (const SelftestRate& rate : result.rates)
    rates.push_back(
        {{"name", rate.name}, {"rate", rate.rate}, {"unit", rate.unit}, {"bound", rate.bound}});
  const nlohmann::ordered_json all = {{"version", version()},
                                      {"device", to_string(device)},
                                      {"processor", processor_features(device)},
                                      {"passed", result.passed()},
                                      {"checks", checks},
                                      {"rates", rates}};
  fmt::print("{}\n", all.dump(1));
}

int run_selftest(const SelftestFlags& flags) {
  set_thread_count(default_threads(1));
  const Device device = find_device(flags.device);
  const std::int64_t elements = parse_count(flags.elements);
  Selftest result;
  if (!flags.json)
    fmt::print("ballot {} on {}: {}\n", version(), to_string(device), processor_features(device));
  result.checks = selftest_checks(device);
  if (device.kind == Device::Kind::cuda) result.checks.push_back(selftest_nccl());
  if (!flags.json)
    for (const SelftestCheck& check : result.checks) print(check);
  if (flags.rates && result.passed()) {
    result.rates = selftest_rates(device, elements);
    if (!flags.json)
      for (const SelftestRate& rate : result.rates) print(rate);
  }
  if (flags.json) print_json(device, result);
  if (!result.passed() && !flags.json)
    fmt::print("the device does not compute what the CPU does: see the lines that FAILED\n");
  return result.passed() ? 0 : static_cast<int>(ExitCode::internal);
}

}  // namespace

void add_selftest(CLI::App& app, Action& action) {
  auto flags = std::make_shared<SelftestFlags>();
  CLI::App* command = app.add_subcommand(
      "selftest", "every pass of a step on a device against the CPU's, then its rates");
  command->add_option("--device", flags->device, "what is tested")
      ->check(CLI::IsMember({"auto", "cpu", "cuda"}))
      ->capture_default_str();
  command->add_option("--elements", flags->elements, "of the matrix that rates are measured with")
      ->capture_default_str();
  command->add_flag("!--no-rates", flags->rates, "only the checks");
  command->add_flag("--json", flags->json, "one JSON object");
  command->callback([&action, flags] { action = [flags] { return run_selftest(*flags); }; });
}

}  // namespace ballot
