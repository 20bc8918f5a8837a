// The subcommands of `ballot`: each adds its flags to the command line and sets what runs when it
// is chosen.
#pragma once

#include <functional>

namespace CLI {
class App;
}

namespace ballot {

// What to run once the command line has been read; returns the process's exit code.
using Action = std::function<int()>;

void add_train(CLI::App& app, Action& action);
void add_launch(CLI::App& app, Action& action);
void add_eval(CLI::App& app, Action& action);
void add_report(CLI::App& app, Action& action);  // report, compare
void add_init(CLI::App& app, Action& action);
void add_bench(CLI::App& app, Action& action);
void add_plan(CLI::App& app, Action& action);

}  // namespace ballot
