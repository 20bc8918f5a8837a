// The parts of a launcher that only decide: hosts, Slurm's lists, networks, places, preflight,
// scripts, words; and an agent as a process.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>
#include <signal.h>

#include <chrono>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <map>
#include <set>
#include <thread>

#include "core/error.h"
#include "core/version.h"
#include "launcher/cluster/agent.h"
#include "launcher/cluster/host_job.h"
#include "launcher/cluster/hosts.h"
#include "launcher/cluster/job_record.h"
#include "launcher/cluster/network.h"
#include "launcher/cluster/placement.h"
#include "launcher/cluster/preflight.h"
#include "launcher/cluster/reach.h"
#include "launcher/cluster/slurm.h"
#include "launcher/cluster/slurm_allocation.h"
#include "launcher/shell_words.h"
#include "tests/support/free_port.h"
#include "tests/support/temporary_folder.h"

namespace ballot {
namespace {

using namespace std::chrono_literals;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;

// The message of the ConfigError that `call` throws.
template <class Call>
std::string refusal(Call call) {
  try {
    call();
  } catch (const ConfigError& failure) {
    return failure.what();
  }
  return "nothing was refused";
}

TEST(Hosts, AFileOrAListNamesThemWithTheirSlots) {
  const std::vector<Host> expected = {{"node1", 1}, {"node2", 4}, {"user@10.0.0.3", 2}};
  EXPECT_EQ(parse_host_file("# ours\nnode1\n\n  node2 slots=4 # big\r\nuser@10.0.0.3:2\n", "f"),
            expected);
  EXPECT_EQ(parse_host_list("node1,node2:4,user@10.0.0.3:2", "f"), expected);
  EXPECT_THAT(parse_host_list("a,b:2,a:3", "f"), ElementsAre(Host{"a", 4}, Host{"b", 2}));
  EXPECT_EQ(total_slots(expected), 7);
}

TEST(Hosts, WhatIsNoHostIsNamedWithItsLine) {
  const auto file = [](const char* text) {
    return refusal([=] { parse_host_file(text, "hosts"); });
  };
  EXPECT_THAT(file("a\nb slots=x\n"), HasSubstr("hosts:2: \"b slots=x\""));
  EXPECT_THAT(file("a slots=0\n"), HasSubstr("hosts:1"));
  EXPECT_THAT(file("a b c\n"), HasSubstr("hosts:1: \"a b c\""));
  EXPECT_THAT(file("-oProxyCommand=reboot\n"), HasSubstr("is no host"));
  EXPECT_THAT(file("a;reboot\n"), HasSubstr("\"a;reboot\" is no host"));
  EXPECT_THAT(file("# nobody\n"), HasSubstr("names no host"));
  EXPECT_THAT(file("a slots=1000\na slots=1000\n"), HasSubstr("2000 slots"));
  EXPECT_THAT(refusal([] { parse_host_list("a,,b", "list"); }), HasSubstr("is no host"));
}

TEST(SlurmLists, AreExpandedAsScontrolDoes) {
  EXPECT_THAT(expand_node_list("node[1-3,07-09],gpu1", "s"),
              ElementsAre("node1", "node2", "node3", "node07", "node08", "node09", "gpu1"));
  EXPECT_THAT(expand_node_list("rack[1-2]n[08-10]", "s"),
              ElementsAre("rack1n08", "rack1n09", "rack1n10", "rack2n08", "rack2n09", "rack2n10"));
  EXPECT_THAT(expand_tasks_per_node("2(x3),1", "s"), ElementsAre(2, 2, 2, 1));
  for (const char* bad : {"", "node[1-", "node[3-1]", "node[a]", "a,,b", "node[1-99999999]",
                          "n[0-9999]m[0-9999]", "a b", "node[1]]", "[1-2", "-n"})
    EXPECT_THAT(refusal([=] { expand_node_list(bad, "LIST"); }), HasSubstr("LIST at byte")) << bad;
  for (const char* bad : {"", "x", "0", "2(x", "2(x0)", "2(x3", "1,,1", "99999"})
    EXPECT_THAT(refusal([=] { expand_tasks_per_node(bad, "TASKS"); }), HasSubstr("TASKS")) << bad;
}

TEST(SlurmLists, TheAllocationIsReadFromTheEnvironment) {
  std::map<std::string, std::string> variables = {{"SLURM_JOB_NODELIST", "n[1-3]"}};
  const auto look = [&](const char* name) -> std::optional<std::string> {
    const auto found = variables.find(name);
    return found == variables.end() ? std::nullopt : std::optional(found->second);
  };
  EXPECT_THAT(read_allocation(look), ElementsAre(Host{"n1", 1}, Host{"n2", 1}, Host{"n3", 1}));
  variables["SLURM_TASKS_PER_NODE"] = "2(x2),1";
  EXPECT_THAT(read_allocation(look), ElementsAre(Host{"n1", 2}, Host{"n2", 2}, Host{"n3", 1}));
  variables["SLURM_TASKS_PER_NODE"] = "2(x2)";
  EXPECT_THAT(refusal([&] { read_allocation(look); }), HasSubstr("is for 2 nodes"));
  variables.clear();
  EXPECT_THAT(refusal([&] { read_allocation(look); }), HasSubstr("SLURM_JOB_NODELIST is not set"));
}

HostFacts facts_with(std::vector<NetworkInterface> interfaces, const std::string& machine) {
  HostFacts facts;
  facts.version = version();
  facts.name = facts.machine = machine;
  facts.cores = 2;
  facts.free_port = 4711;
  facts.memory_bytes = facts.disk_bytes = 100'000'000'000;
  facts.interfaces = std::move(interfaces);
  facts.interfaces.push_back({"lo", "127.0.0.1", 8, true, -1});
  return facts;
}
const NetworkInterface kDocker{"docker0", "172.17.0.1", 16, false, -1};
NetworkInterface at(const char* name, const char* address, int prefix = 24,
                    std::int64_t megabits = -1) {
  return {name, address, prefix, false, megabits};
}

TEST(Network, TheOnlyCommonOneIsTakenAndDockersIsNot) {
  const std::vector<HostFacts> facts = {
      facts_with({kDocker, at("eth0", "10.1.0.1"), at("wlan0", "192.168.0.7")}, "a"),
      facts_with({kDocker, at("enp3s0", "10.1.0.2")}, "b")};
  const NetworkChoice choice = choose_network({"a", "b"}, facts, {"", ""}, "");
  EXPECT_EQ(choice.of_host[0].address, "10.1.0.1");
  EXPECT_EQ(choice.of_host[1].name, "enp3s0");
  EXPECT_EQ(choice.reason, "10.1.0.0/24 is the only network that all hosts are on");
  EXPECT_EQ(network_text(choice.of_host[0]), "10.1.0.0/24");
}

TEST(Network, OfSeveralTheNamesOrTheSpeedOrTheUserDecide) {
  const auto facts = [](std::int64_t second) {
    return std::vector<HostFacts>{
        facts_with({at("eth0", "10.1.0.1", 24, 1000), at("ib0", "10.2.0.1", 24, second)}, "a"),
        facts_with({at("eth0", "10.1.0.2", 24, 1000), at("ib0", "10.2.0.2", 24, second)}, "b")};
  };
  const std::vector<std::string> hosts = {"a", "b"}, unknown = {"", ""};
  EXPECT_THAT(refusal([&] { choose_network(hosts, facts(1000), unknown, ""); }),
              testing::AllOf(HasSubstr("on several networks"), HasSubstr("ib0 10.2.0.2/24")));
  EXPECT_EQ(choose_network(hosts, facts(100'000), unknown, "").of_host[1].name, "ib0");
  EXPECT_EQ(choose_network(hosts, facts(100'000), {"10.1.0.1", "10.1.0.2"}, "").of_host[1].name,
            "eth0");
  EXPECT_EQ(choose_network(hosts, facts(1), unknown, "ib0").of_host[0].address, "10.2.0.1");
  EXPECT_EQ(choose_network(hosts, facts(1), unknown, "10.2.0.0/16").of_host[0].name, "ib0");
  // A prefix of a name is another name (eth, eth0 and eth01 are three interfaces).
  EXPECT_THAT(refusal([&] { choose_network(hosts, facts(1), unknown, "ib"); }),
              HasSubstr("--interface ib: a has no such interface"));
  EXPECT_THAT(refusal([&] { choose_network(hosts, facts(1), unknown, "10.2.0.0/33"); }),
              HasSubstr("expected an interface's name or a network"));
}

TEST(Network, LoopbackIsForOneMachineOnly) {
  const HostFacts a = facts_with({}, "a"), b = facts_with({}, "b");
  EXPECT_TRUE(choose_network({"x", "y"}, {a, a}, {"", ""}, "").of_host[1].loopback);
  EXPECT_THAT(refusal([&] {
                choose_network({"x", "y"}, {a, b}, {"", ""}, "");
              }),
              HasSubstr("there is no network that all hosts are on"));
  EXPECT_THAT(refusal([&] {
                choose_network({"x", "y"}, {a, b}, {"", ""}, "lo");
              }),
              HasSubstr("that is loopback"));
}

RC_GTEST_PROP(Placing, EveryVoterHasSlotsOfItsOwnAlsoAfterMoves, ()) {
  const auto members = *rc::gen::inRange(1, 4);
  const auto sizes = *rc::gen::container<std::vector<int>>(6, rc::gen::inRange(1, 7));
  std::vector<Host> hosts;
  int room = 0;
  for (std::size_t h = 0; h < sizes.size(); ++h) {
    hosts.push_back({fmt::format("h{}", h), sizes[h]});
    room += sizes[h] / members;
  }
  RC_PRE(room > 0);
  const auto voters = *rc::gen::inRange(1, room + 1);
  Placement placement(hosts, voters, members);
  const auto moves = *rc::gen::container<std::vector<int>>(10, rc::gen::inRange(0, voters));
  for (int turn = -1; turn < static_cast<int>(moves.size()); ++turn) {
    if (turn >= 0) placement.move(moves[static_cast<std::size_t>(turn)]);
    std::set<std::pair<std::size_t, int>> taken;
    for (int voter = 0; voter < voters; ++voter)
      for (int member = 0; member < members; ++member) {
        const int slot = placement.slot_of(voter) + member;
        RC_ASSERT(slot < hosts[placement.host_of(voter)].slots);
        RC_ASSERT(taken.emplace(placement.host_of(voter), slot).second);
      }
  }
}

TEST(Placing, FillsHostsInOrderAndRefusesWhatDoesNotFit) {
  Placement placement({{"a", 2}, {"b", 1}, {"c", 1}}, 3, 1);
  EXPECT_THAT(
      (std::vector<std::size_t>{placement.host_of(0), placement.host_of(1), placement.host_of(2)}),
      ElementsAre(0, 0, 1));
  EXPECT_EQ(placement.move(2), 2u);  // c stands by
  EXPECT_EQ(placement.move(2), 1u);  // nobody else has room: b may be back
  EXPECT_THAT(refusal([] {
                Placement({{"a", 3}, {"b", 1}}, 2, 2);
              }),
              HasSubstr("4 workers in voters of 2, each on one host, do not fit onto 2 hosts"));
}

HostAnswer answer_of(const HostFacts& facts) {
  HostAnswer answer;
  answer.reached = true;
  answer.output = "a line of somebody's profile\n" + encode_facts(facts) + "\n";
  return answer;
}

TEST(Preflight, EveryDifferenceIsRefusedWithWhatToChange) {
  HostFacts good = facts_with({at("eth0", "10.0.0.1")}, "a");
  good.model_digest = std::string(32, 'a');
  good.time = 1000;
  struct Case {
    const char* text;
    std::function<void(HostFacts&)> spoil;
  };
  const Case cases[] = {
      {"b: runs ballot 0.0.1", [](HostFacts& f) { f.version = "0.0.1"; }},
      {"b: its clock is 60 s behind this one's; set it (NTP)", [](HostFacts& f) { f.time = 940; }},
      {"b: model.folder model has other contents there",
       [](HostFacts& f) { f.model_digest = std::string(32, 'b'); }},
      {"b: output.folder run cannot be written there (read-only file system)",
       [](HostFacts& f) { f.folder_problem = "read-only file system"; }},
      {"b: 1.0 GB are free where output.folder run is", [](HostFacts& f) { f.disk_bytes = 1e9; }},
      {"b: output.folder run is another folder there: a file that this launcher wrote in /above",
       [](HostFacts& f) { f.sees_witness = false; }},
      {"b: 1 GPUs for 2 workers; put fewer workers there, or leave --transport nccl out",
       [](HostFacts& f) { f.gpus.pop_back(); }},
      {"b: 3.0 GB of a GPU's memory are free, a worker needs 4.0 GB",
       [](HostFacts& f) { f.gpu_memory_bytes = 3e9; }},
      {"a and b are one machine, and workers of both would take its first GPUs",
       [](HostFacts& f) { f.machine = "a"; }},
      {"b: libnccl.so.2: cannot open; install NCCL",
       [](HostFacts& f) {
         f.nccl.clear();
         f.nccl_problem = "libnccl.so.2: cannot open";
       }},
      {"hosts have different versions of NCCL: NCCL 2.18.1 on b, NCCL 2.28.3 on a, c",
       [](HostFacts& f) { f.nccl = "NCCL 2.18.1"; }},
  };
  PreflightNeeds needs;
  needs.run_folder = "run";
  needs.model_folder = "model";
  needs.memory_bytes_per_worker = 4'000'000'000;
  needs.disk_bytes = 5'000'000'000;
  needs.gpu = needs.nccl = true;
  needs.workers_of_host = {2, 2, 2};
  good.gpus = {"one", "two"};
  good.nccl = "NCCL 2.28.3";
  good.gpu_memory_bytes = 5'000'000'000;
  const auto judged = [&](const HostFacts& second) {
    Preflight preflight;
    preflight.witness_folder = "/above";
    HostFacts third = good;
    third.machine = "c";
    for (const auto& [name, facts] :
         {std::pair{"a", good}, std::pair{"b", second}, std::pair{"c", third}})
      preflight.rows.push_back(read_answer({name, 2}, {answer_of(facts), 999.5, 1000.5}));
    judge_hosts(needs, preflight);
    return preflight;
  };
  HostFacts as_good = good;
  as_good.machine = "b";
  EXPECT_THAT(judged(as_good).refusals, IsEmpty());
  for (const Case& one : cases) {
    HostFacts bad = as_good;
    one.spoil(bad);
    const Preflight preflight = judged(bad);
    EXPECT_THAT(preflight.refusals, ElementsAre(HasSubstr(one.text)));
    EXPECT_FALSE(preflight.may_pass);
    EXPECT_THAT(preflight.table(), HasSubstr(std::string("not started: ") + one.text));
  }
  HostFacts container = as_good;
  container.machine = "a/another namespace";
  EXPECT_THAT(judged(container).refusals, IsEmpty());
  // Who only stands by, or does not use it, need not have it.
  HostFacts without = as_good;
  without.nccl.clear();
  needs.workers_of_host = {2, 0, 2};
  EXPECT_THAT(judged(without).refusals, IsEmpty());
  needs.workers_of_host = {2, 2, 2};
  needs.nccl = false;
  EXPECT_THAT(judged(without).refusals, IsEmpty());
  EXPECT_THAT(judged(as_good).table(), HasSubstr("2 x one, NCCL 2.28.3\n"));

  // On processors memory is what counts, of all workers of a machine, under whatever name.
  needs.gpu = false;
  needs.bf16 = true;
  HostFacts small = as_good;
  small.bf16 = true;
  small.gpus.clear();
  good = small;
  good.machine = "a";
  EXPECT_THAT(judged(small).refusals, IsEmpty());
  small.memory_bytes = 1e9;
  EXPECT_THAT(judged(small).refusals,
              ElementsAre(HasSubstr("b: 1.0 GB of memory are free, 2 workers need 8.0 GB")));
  small.memory_bytes = good.memory_bytes = 10e9;
  EXPECT_THAT(judged(small).refusals, IsEmpty());
  small.machine = "a/another namespace";
  EXPECT_THAT(judged(small).refusals,
              ElementsAre(HasSubstr("a: 10.0 GB of memory are free, 4 workers need 16.0 GB")));
  small.machine = "b";
  small.bf16 = false;
  EXPECT_THAT(judged(small).refusals,
              ElementsAre(HasSubstr("b: its processor has no bf16 products")));
  small.gpus = {"one"};
  EXPECT_THAT(judged(small).refusals, IsEmpty());

  // Once the job has run, a share may not be mounted yet.
  small.sees_witness = false;
  EXPECT_FALSE(judged(small).may_pass);
  needs.again = true;
  EXPECT_TRUE(judged(small).may_pass);
}

TEST(Preflight, AWitnessIsSeenWhereTheFolderIsOneAndGoesWithItsLauncher) {
  TemporaryFolder here, there;
  const auto ask = [&](const Witness& witness, const std::string& folder) {
    HostQuestions questions;
    questions.run_folder = folder;
    questions.witness = witness.path();
    questions.witness_patience = std::chrono::milliseconds(50);
    return gather_host_facts(questions);
  };
  std::string path;
  {
    const Witness witness(here.file("run"));  // which is not there yet
    path = witness.path();
    EXPECT_EQ(std::filesystem::path(path).parent_path(), here.path());
    EXPECT_TRUE(ask(witness, here.file("run")).sees_witness);
    EXPECT_NE(Witness(here.file("run")).path(), path);
    std::filesystem::rename(path, there.file("away"));
    EXPECT_FALSE(ask(witness, here.file("run")).sees_witness);
    std::filesystem::rename(there.file("away"), path);
  }
  EXPECT_FALSE(std::filesystem::exists(path));
  const Witness nowhere("/proc/ballot-run");
  EXPECT_THAT(nowhere.problem(), HasSubstr("/proc: "));
  EXPECT_EQ(nowhere.path(), "");
}

TEST(Preflight, AHostThatDoesNotAnswerHasItsReasonInTheTable) {
  HostAnswer silent;
  silent.exit_code = 255;
  silent.errors = "Warning: something\nssh: connect to host b port 22: No route to host\r\n";
  HostAnswer late;
  late.timed_out = true;
  HostAnswer absent;
  absent.exit_code = 127;
  absent.errors = "sh: ballot: not found";
  HostAnswer liar;
  liar.reached = true;
  liar.output = "{\"version\": 7}";
  Preflight preflight;
  for (const auto& [name, answer] : {std::pair{"b", silent}, std::pair{"c", late}})
    preflight.rows.push_back(read_answer({name, 1}, {answer, 0, 0}));
  judge_hosts({}, preflight);
  EXPECT_TRUE(preflight.may_pass);  // they may answer the next time
  EXPECT_THAT(preflight.table(), HasSubstr("ssh: connect to host b port 22: No route to host\n"));
  EXPECT_THAT(preflight.table(), HasSubstr("did not answer in time"));
  for (const auto& [name, answer] : {std::pair{"d", absent}, std::pair{"e", liar}})
    preflight.rows.push_back(read_answer({name, 1}, {answer, 0, 0}));
  preflight.refusals.clear();
  judge_hosts({}, preflight);
  EXPECT_FALSE(preflight.may_pass);
  EXPECT_THAT(preflight.refusals,
              testing::Contains(HasSubstr("sh: ballot: not found (--program says where")));
  EXPECT_THAT(preflight.refusals, testing::Contains(HasSubstr("\"version\" is number")));
  EXPECT_THAT(preflight.refusals, testing::Contains(HasSubstr("another build of ballot?")));
}

TEST(Network, NcclIsToldTheWholeNameButOfLoopback) {
  EXPECT_EQ(nccl_interface(at("eth0", "10.0.0.1")), "=eth0");
  EXPECT_EQ(nccl_interface({"lo", "127.0.0.1", 8, true, -1}), "");
}

TEST(Preflight, ThreadsAreOfTheHostsCoresAndItsWorkersUnderAllItsNames) {
  Preflight seen;
  for (const auto& [machine, cores] : {std::pair{"a/1", 8}, {"a/2", 8}, {"b/1", 64}, {"c/1", 2}}) {
    HostFacts facts = facts_with({}, machine);
    facts.cores = cores;
    PreflightRow row;
    row.facts = facts;
    seen.rows.push_back(row);
  }
  const Placement placement({{"a", 2}, {"also-a", 2}, {"b", 4}, {"c", 4}}, 12, 1);
  EXPECT_EQ(threads_of_workers(placement, seen), (std::vector<int>{2, 2, 16, 1}));
}

TEST(Preflight, FactsComeBackAsTheyWere) {
  HostFacts facts = facts_with({at("eth0", "10.0.0.1", 24, 1000)}, "a \"quoted\" name\n");
  facts.gpus = {"H100"};
  facts.nccl = "NCCL 2.28.3";
  facts.nccl_problem = facts.gpu_problem = facts.folder_problem = "a problem";
  facts.sees_witness = false;
  facts.bf16 = true;
  facts.gpu_memory_bytes = 79'000'000'000;
  facts.time = 1.5;
  const HostFacts back = decode_facts(encode_facts(facts));
  EXPECT_EQ(encode_facts(back), encode_facts(facts));
  EXPECT_EQ(back.interfaces[0].megabits, 1000);
  EXPECT_EQ(back.nccl, "NCCL 2.28.3");
  EXPECT_FALSE(back.sees_witness);
  EXPECT_TRUE(back.bf16);
}

TEST(Preflight, DigestsOfFoldersAreOfNamesAndContents) {
  TemporaryFolder first, second;
  const auto write = [](const TemporaryFolder& folder, const char* name, const char* text) {
    std::ofstream(folder.file(name)) << text;
  };
  write(first, "a", "1");
  write(first, "b", "2");
  write(second, "b", "2");
  write(second, "a", "1");
  write(second, ".hidden", "3");
  EXPECT_EQ(digest_of_folder(first.path()), digest_of_folder(second.path()));
  write(second, "a", "2");
  EXPECT_NE(digest_of_folder(first.path()), digest_of_folder(second.path()));
  write(second, "a", "12");
  write(second, "b", "");
  EXPECT_NE(digest_of_folder(first.path()), digest_of_folder(second.path()));
}

TEST(Reach, WhoListensIsReachedAndWhoDoesNotIsNamed) {
  const std::vector<HostAddress> peers = {{"127.0.0.1", test::free_port()},
                                          {"127.0.0.1", test::free_port()},
                                          {"127.0.0.1", test::free_port()}};
  std::vector<ReachReport> reports(2);
  std::vector<std::thread> threads;
  for (std::size_t self = 0; self < 2; ++self)
    threads.emplace_back(
        [&, self] { reports[self] = try_to_reach(peers, self, Deadline::in(2s)); });
  for (std::thread& thread : threads) thread.join();
  for (const ReachReport& report : reports) {
    EXPECT_EQ(report.problems[0], "");
    EXPECT_EQ(report.problems[1], "");
    EXPECT_EQ(report.problems[2], "Connection refused");
    EXPECT_EQ(encode_report(decode_report(encode_report(report), 3)), encode_report(report));
  }
}

TEST(Words, SplitAndQuotedWordsSurviveAShell) {
  EXPECT_THAT(split_words("--ssh", " ssh -o 'a b'  \"c'd\" e''f \"\""),
              ElementsAre("ssh", "-o", "a b", "c'd", "ef", ""));
  EXPECT_THAT(refusal([] { split_words("--ssh", "ssh 'x"); }), HasSubstr("--ssh ssh 'x"));
  for (const char* word : {"plain", "", "it's", "$HOME `x` \\ \" ; & | > *", "-n", "a\tb"}) {
    std::FILE* shell = ::popen(("printf %s " + shell_quoted(word)).c_str(), "r");
    char bytes[100] = "";
    const std::size_t count = std::fread(bytes, 1, sizeof bytes, shell);
    ::pclose(shell);
    EXPECT_EQ(std::string(bytes, count), word);
  }
}

TEST(SlurmScript, HoldsWhatWasAskedForAndNothingThatAValueSmugglesIn) {
  SlurmJob job;
  job.name = "mine";
  job.nodes = 2;
  job.workers_per_node = 4;
  job.cpus_per_worker = 8;
  job.gpus_per_node = 4;
  job.time = "2:00:00";
  job.partition = "gpu";
  job.account = "ours";
  job.retries = 3;
  job.options = {"--exclusive"};
  job.folder = "/work/it's here";
  job.log = "/runs/mine/logs/launch.log";
  job.command = {"/opt/ballot", "launch", "run file.toml", "--set", "a=\"b\""};
  EXPECT_EQ(render_batch_script(job),
            "#!/bin/bash\n#SBATCH --job-name=mine\n#SBATCH --nodes=2\n#SBATCH "
            "--ntasks-per-node=4\n#SBATCH --cpus-per-task=8\n#SBATCH --gres=gpu:4\n#SBATCH "
            "--time=2:00:00\n#SBATCH --partition=gpu\n#SBATCH --account=ours\n#SBATCH "
            "--output=/runs/mine/logs/launch.log\n#SBATCH --open-mode=append\n#SBATCH "
            "--signal=B:USR1@120\n#SBATCH --no-kill\n#SBATCH --requeue\n#SBATCH --exclusive\n\n"
            "cd '/work/it'\\''s here' || exit 2\nexec /opt/ballot launch 'run file.toml' --set "
            "'a=\"b\"'\n");
  job.retry = SlurmJob::Retry::array;
  EXPECT_THAT(render_batch_script(job), HasSubstr("#SBATCH --array=0-3%1\n#SBATCH --no-requeue\n"));
  job.partition = "gpu\n#SBATCH --uid=0";
  EXPECT_THAT(refusal([&] { render_batch_script(job); }), HasSubstr("with a line feed"));
}

TEST(Orders, ComeBackAsTheyWereAndEndsAreToldFromOutput) {
  AgentOrder order;
  order.command = {"/bin/echo", "a\n\"b\""};
  order.environment = {{"NAME", "value with = and \n"}};
  order.folder = "/tmp";
  order.leave_signal = SIGUSR1;
  order.drain_seconds = 3.5;
  const std::string line = encode_order(order);
  EXPECT_EQ(line.find('\n'), line.size() - 1);
  EXPECT_EQ(encode_order(decode_order(line)), line);
  for (const char* bad : {"", "[]", "{}", R"({"command":[]})", R"({"command":[1]})"})
    EXPECT_THAT(refusal([=] { decode_order(bad); }), HasSubstr("ballot agent: ")) << bad;
  std::string_view rest;
  std::string end = "half a line" + encode_end(137);
  end.pop_back();
  EXPECT_EQ(parse_end(end, rest), 137);
  EXPECT_EQ(rest, "half a line");
  EXPECT_EQ(parse_end("ballot agent: the command ended with 0", rest), std::nullopt);
}

TEST(Jobs, RecordsComeBackAndSayHowTheyAre) {
  TemporaryFolder folder;
  ::setenv("BALLOT_JOBS", folder.file("jobs").c_str(), 1);
  JobRecord job;
  job.name = "mine";
  job.on = "ssh";
  job.run_folder = folder.file("run");
  job.workers = 3;
  EXPECT_FALSE(read_job(job.run_folder));
  list_job(job);
  take_over(job);
  EXPECT_EQ(state_of(*read_job(job.run_folder)).kind, JobState::Kind::running);
  JobRecord dead = job;
  dead.launcher_start ^= 1;  // another process has the number now
  EXPECT_EQ(state_of(dead).kind, JobState::Kind::lost);
  dead.host = "elsewhere";
  EXPECT_EQ(state_of(dead).kind, JobState::Kind::unknown);

  JobRecord other = job;
  other.run_folder = folder.file("other");
  EXPECT_THAT(refusal([&] { list_job(other); }), HasSubstr("another job of this name"));
  other.name = "../escape";
  EXPECT_THAT(refusal([&] { list_job(other); }), HasSubstr("--name ../escape"));

  end_job(job, 4);
  const JobRecord found = find_job("mine");
  EXPECT_EQ(found.exit_code, 4);
  EXPECT_EQ(state_of(found).text, "ended with 4");
  EXPECT_EQ(find_job(job.run_folder).name, "mine");
  EXPECT_THAT(refusal([] { find_job("nobody"); }), HasSubstr("expected one of mine"));
  std::ofstream(job.run_folder + "/job.json") << "{\"name\": \"mine\"}";
  std::vector<std::string> problems;
  EXPECT_THAT(listed_jobs(problems), IsEmpty());
  EXPECT_THAT(problems, ElementsAre(HasSubstr("job.json: \"on\" is absent")));
  EXPECT_EQ(name_of_run("runs/my run!"), "my-run-");
  ::unsetenv("BALLOT_JOBS");
}

}  // namespace
}  // namespace ballot
