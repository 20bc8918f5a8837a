// What a cluster says of a job, and what hosts, schedulers and people say to a launcher.
#include "core/error.h"
#include "launcher/cluster/agent.h"
#include "launcher/cluster/host_facts.h"
#include "launcher/cluster/hosts.h"
#include "launcher/cluster/job_record.h"
#include "launcher/cluster/reach.h"
#include "launcher/cluster/slurm_allocation.h"
#include "launcher/kubernetes/job_state.h"
#include "tests/fuzz/entries.h"

namespace ballot::fuzz {
namespace {

constexpr const char* kJob =
    R"({"kind":"Job","metadata":{"uid":"u"},"spec":{"completions":4},"status":{"active":3,"ready":2,)"
    R"("succeeded":1,"failed":2,"failedIndexes":"0-2,5","conditions":[{"type":"Failed","status":"True",)"
    R"("reason":"FailedIndexes","message":"m"}]}})";
constexpr const char* kPods =
    R"({"items":[{"metadata":{"name":"a","creationTimestamp":"1","labels":{)"
    R"("batch.kubernetes.io/job-completion-index":"2"}},"status":{"phase":"Pending","conditions":[)"
    R"({"type":"PodScheduled","status":"False","reason":"r"}],"containerStatuses":[{"state":{)"
    R"("terminated":{"exitCode":3},"waiting":{"reason":"w"}}}]}},{"metadata":{"labels":{)"
    R"("app.kubernetes.io/component":"coordinator"}}}]})";

// The job and its pods, with a line that is not JSON's between them.
bool run_kubernetes_state(std::span<const std::byte> bytes) {
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  const std::size_t cut = std::min(text.find("\n---\n"), text.size());
  try {
    const KubernetesState state =
        parse_kubernetes_state(std::string(text.substr(0, cut)),
                               cut == text.size() ? "" : std::string(text.substr(cut + 5)));
    require(!describe(state).empty(), "a state without words");
    const int code = exit_code_of(state);
    require(state.phase != KubernetesState::Phase::done || code == 0, "done with {}", code);
    require(state.running >= 0 && state.failed >= 0, "{} run, {} failed", state.running,
            state.failed);
    pods_left(state);
    return true;
  } catch (const WorldError&) {
    return false;
  }
}

std::string_view text_of(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

template <class Read>
bool accepts(Read read) {
  try {
    read();
    return true;
  } catch (const WorldError&) {
    return false;
  }
}

bool run_hosts(std::span<const std::byte> bytes) {
  return accepts([&] {
    for (const Host& host : parse_host_file(text_of(bytes), "hosts"))
      require(host.slots >= 1 && host.slots <= kMostSlots && host.name[0] != '-', "{} with {}",
              host.name, host.slots);
  });
}
bool run_node_list(std::span<const std::byte> bytes) {
  return accepts([&] {
    const auto nodes = expand_node_list(text_of(bytes), "nodes");
    require(!nodes.empty() && nodes.size() <= kMostHosts, "{} nodes", nodes.size());
  });
}
bool run_tasks_per_node(std::span<const std::byte> bytes) {
  return accepts([&] { expand_tasks_per_node(text_of(bytes), "tasks"); });
}
// What is read is written the same way again.
bool run_host_facts(std::span<const std::byte> bytes) {
  return accepts([&] {
    const std::string once = encode_facts(decode_facts(text_of(bytes)));
    require(encode_facts(decode_facts(once)) == once, "facts that change: {}", once);
  });
}
bool run_reach_report(std::span<const std::byte> bytes) {
  return accepts([&] { decode_report(text_of(bytes), 2); });
}
bool run_agent_order(std::span<const std::byte> bytes) {
  return accepts(
      [&] { require(!decode_order(text_of(bytes)).command.empty(), "an order to run nothing"); });
}
bool run_job_record(std::span<const std::byte> bytes) {
  return accepts([&] { decode_job(text_of(bytes), "job.json"); });
}

HostFacts sample_facts() {
  HostFacts facts;
  facts.version = std::string("0.1.0");
  facts.interfaces = {{"eth0", "10.0.0.1", 24, false, 1000}};
  facts.gpus = {"one"};
  facts.cores = facts.free_port = 1;
  return facts;
}

}  // namespace

std::vector<Entry> with_cluster_entries(std::vector<Entry> entries) {
  entries.push_back({"kubernetes_state",
                     run_kubernetes_state,
                     {std::string(kJob) + "\n---\n" + kPods,
                      R"({"kind":"MPIJob","spec":{"mpiReplicaSpecs":{"Worker":{"replicas":4}}},)"
                      R"("status":{"replicaStatuses":{"Worker":{"active":4}}}})"}});
  entries.push_back({"hosts", run_hosts, {"node1 slots=4\nnode2:2 # two\n10.0.0.3\n", "user@a\n"}});
  entries.push_back({"node_list", run_node_list, {"node[1-3,07-09],gpu1", "rack[1-2]n[1-2]"}});
  entries.push_back({"tasks_per_node", run_tasks_per_node, {"2(x3),1"}});
  entries.push_back({"host_facts", run_host_facts, {encode_facts(sample_facts())}});
  entries.push_back(
      {"reach_report", run_reach_report, {encode_report({{"", "refused"}, {0, 1.5}})}});
  AgentOrder order;
  order.command = {"/bin/true", "x"};
  order.environment = {{"NAME", "value"}};
  entries.push_back({"agent_order", run_agent_order, {encode_order(order)}});
  entries.push_back(
      {"job_record",
       run_job_record,
       {R"({"name":"n","on":"ssh","run_folder":"/r","id":"","workers":3,"elastic":true,"started":1.5,)"
        R"("host":"h","launcher":7,"launcher_start":9,"exit_code":0,"ended":2.5})"}});
  return entries;
}

}  // namespace ballot::fuzz
