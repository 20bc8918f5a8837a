// The `ballot` command: reads the command line, runs one subcommand, and is the last door for
// exceptions.
#include <fmt/format.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <cstdlib>

#include "core/error.h"
#include "core/version.h"
#include "launcher/commands.h"

namespace {

// libgomp reads its waiting policy when it is loaded. Its default spins between products, which is
// ruinous as soon as workers share cores, so the process starts itself once more with the policy
// set.
void restart_with_passive_waiting(char** arguments) {
  if (std::getenv("OMP_WAIT_POLICY") != nullptr) return;
  setenv("OMP_WAIT_POLICY", "passive", 1);
  execv("/proc/self/exe", arguments);  // returns only when it fails; then the run is merely slower
}

}  // namespace

int main(int count, char** arguments) {
  restart_with_passive_waiting(arguments);
  CLI::App app{"Ballot trains one model on many machines by one-bit majority vote."};
  app.set_version_flag("--version", std::string("ballot ") + ballot::version());
  app.require_subcommand(1);
  app.footer(
      "Exit codes: 0 done, 1 internal error, 2 configuration, 3 data, 4 a retry can help, 5 sent "
      "away from an elastic run, 128 + n signal n.");
  ballot::Action action;
  ballot::add_train(app, action);
  ballot::add_launch(app, action);
  ballot::add_eval(app, action);
  ballot::add_generate(app, action);
  ballot::add_report(app, action);
  ballot::add_init(app, action);
  ballot::add_export(app, action);
  ballot::add_tokenize(app, action);
  ballot::add_bench(app, action);
  ballot::add_plan(app, action);
  ballot::add_coordinator(app, action);
  ballot::add_status(app, action);
  ballot::add_replay(app, action);
  ballot::add_selftest(app, action);
  ballot::add_jobs(app, action);
  ballot::add_agent(app, action);
  try {
    app.parse(count, arguments);
    return action ? action() : 0;
  } catch (const CLI::ParseError& failure) {
    if (app.get_subcommands().empty())  // CLI11 says then only that one is required
      for (const std::string& word : app.remaining())
        fmt::print(stderr, "ballot: there is no command or flag {}\n", word);
    const int code = app.exit(failure);  // prints the help or what was wrong
    return code == 0 ? 0 : static_cast<int>(ballot::ExitCode::configuration);
  } catch (const std::exception& failure) {
    const ballot::Failure described = ballot::describe_failure(failure);
    fmt::print(stderr, "ballot: {}\n", described.message);
    return static_cast<int>(described.exit_code);
  }
}
