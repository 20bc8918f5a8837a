// The subcommands of `ballot`: each adds its flags to the command line and sets what runs when it
// is chosen.
#pragma once

#include <functional>
#include <string>

namespace CLI {
class App;
}

namespace ballot {

// What to run once the command line has been read; returns the process's exit code.
using Action = std::function<int()>;

// --resume[=journal|checkpoint] of train and launch; `from` stays empty without it.
void add_resume_flag(CLI::App& command, std::string& from);

void add_train(CLI::App& app, Action& action);
void add_launch(CLI::App& app, Action& action);
void add_eval(CLI::App& app, Action& action);
void add_generate(CLI::App& app, Action& action);
void add_report(CLI::App& app, Action& action);  // report, compare
void add_init(CLI::App& app, Action& action);
void add_export(CLI::App& app, Action& action);
void add_tokenize(CLI::App& app, Action& action);
void add_bench(CLI::App& app, Action& action);
void add_plan(CLI::App& app, Action& action);
void add_coordinator(CLI::App& app, Action& action);
void add_status(CLI::App& app, Action& action);  // status, expel
void add_replay(CLI::App& app, Action& action);
void add_selftest(CLI::App& app, Action& action);
void add_jobs(CLI::App& app, Action& action);   // jobs, logs, stop
void add_agent(CLI::App& app, Action& action);  // agent, probe

}  // namespace ballot
