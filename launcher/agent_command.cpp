// `ballot agent` and `ballot probe`: what a launcher runs on other hosts. Not for people, so not in
// the list of commands; each has its help all the same.
#include <fmt/format.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <memory>
#include <string>
#include <vector>

#include "core/error.h"
#include "launcher/cluster/agent.h"
#include "launcher/cluster/host_facts.h"
#include "launcher/cluster/reach.h"
#include "launcher/commands.h"

namespace ballot {
namespace {

struct ProbeFlags {
  HostQuestions questions;
  std::vector<std::string> peers;
  std::size_t self = 0;
  int seconds = 10;
};

int probe(const ProbeFlags& flags) {
  if (flags.peers.empty()) {
    fmt::print("{}\n", encode_facts(gather_host_facts(flags.questions)));
    return 0;
  }
  std::vector<HostAddress> peers;
  for (const std::string& peer : flags.peers) peers.push_back(parse_host_address("--reach", peer));
  if (flags.self >= peers.size())
    throw ConfigError("--self {}: expected less than {}, the hosts of --reach", flags.self,
                      peers.size());
  fmt::print("{}\n", encode_report(try_to_reach(
                         peers, flags.self, Deadline::in(std::chrono::seconds(flags.seconds)))));
  return 0;
}

}  // namespace

void add_agent(CLI::App& app, Action& action) {
  CLI::App* agent = app.add_subcommand(
      "agent", "carries out a launcher's order, read from standard input, on this host");
  agent->group("");
  agent->callback([&action] { action = [] { return run_agent(STDIN_FILENO, STDOUT_FILENO); }; });

  auto flags = std::make_shared<ProbeFlags>();
  CLI::App* command = app.add_subcommand(
      "probe", "prints as JSON what a launcher wants to know of this host before a job");
  command->group("");
  command->allow_extras();  // of a launcher that asks more: the version says that it is another
  command->add_option("--run-folder", flags->questions.run_folder, "whose disk to look at")
      ->type_name("FOLDER");
  command->add_option("--model", flags->questions.model_folder, "of which to tell a digest")
      ->type_name("FOLDER");
  command->add_option("--witness", flags->questions.witness, "a file that is to be seen here")
      ->type_name("FILE");
  command->add_flag("--gpus", flags->questions.gpus, "look for GPUs and NCCL");
  command
      ->add_option("--reach", flags->peers,
                   "instead: addresses of all hosts of a job, to be tried by all at once")
      ->delimiter(',')
      ->type_name("HOST:PORT,...");
  command->add_option("--self", flags->self, "which of them this host is, from 0");
  command->add_option("--seconds", flags->seconds, "to try for")->check(CLI::Range(1, 600));
  command->callback([&action, flags] { action = [flags] { return probe(*flags); }; });
}

}  // namespace ballot
