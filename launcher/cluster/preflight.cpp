#include "launcher/cluster/preflight.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <map>

#include "core/error.h"
#include "core/version.h"

namespace ballot {
namespace {

double now() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

std::string gigabytes(std::int64_t bytes) {
  return fmt::format("{:.1f} GB", static_cast<double>(bytes) / 1e9);
}

// The last line that is not empty, of what ssh or the program said: the reason, nearly always.
std::string last_line(const std::string& text) {
  const std::size_t end = text.find_last_not_of(" \r\n");
  if (end == std::string::npos) return "";
  const std::size_t line = text.rfind('\n', end);
  return text.substr(line == std::string::npos ? 0 : line + 1,
                     end - (line == std::string::npos ? 0 : line + 1) + 1);
}

// Of bytes that came from elsewhere: nothing that a terminal would obey.
std::string shown(std::string text) {
  for (char& c : text)
    if (static_cast<unsigned char>(c) < ' ' || c == 127) c = '?';
  return text.substr(0, 300);
}

std::string why_not(const HostAnswer& answer) {
  const std::string said = shown(last_line(answer.errors.empty() ? answer.output : answer.errors));
  if (answer.timed_out) return "did not answer in time" + (said.empty() ? "" : ": " + said);
  if (!answer.reached)
    return said.empty() ? fmt::format("cannot be reached (exit code {})", answer.exit_code) : said;
  return said.empty() ? fmt::format("the probe ended with {}", answer.exit_code) : said;
}

constexpr const char* kOtherBuild = " (another build of ballot? install the same everywhere)";

// Of the hosts that have facts, the first with the digest that most have.
const PreflightRow* usual_model(const std::vector<PreflightRow>& rows) {
  const PreflightRow* usual = nullptr;
  std::ptrdiff_t most = 0;
  for (const PreflightRow& row : rows) {
    if (!row.facts) continue;
    const auto alike = std::count_if(rows.begin(), rows.end(), [&](const PreflightRow& other) {
      return other.facts && other.facts->model_digest == row.facts->model_digest;
    });
    if (alike > most) {
      usual = &row;
      most = alike;
    }
  }
  return usual;
}

}  // namespace

PreflightRow read_answer(const Host& host, const PreflightAnswer& answer) {
  PreflightRow row{host, std::nullopt, 0, "", true};
  if (!answer.answer.reached || answer.answer.exit_code != 0) {
    row.problem = why_not(answer.answer);
    // A shell's word for a program that is not there; and what the probe itself found wrong.
    const int code = answer.answer.exit_code;
    if (!answer.answer.reached && (code == 126 || code == 127)) {
      row.problem += " (--program says where it is there)";
      row.may_pass = false;
    }
    if (answer.answer.reached && code != static_cast<int>(ExitCode::retry)) row.may_pass = false;
    // Of what it was asked.
    if (answer.answer.reached && code == static_cast<int>(ExitCode::configuration))
      row.problem += kOtherBuild;
    return row;
  }
  try {
    row.facts = decode_facts(last_line(answer.answer.output));
  } catch (const Error& failure) {
    row.problem = shown(failure.what()) + kOtherBuild;
    row.may_pass = false;
    return row;
  }
  // Its clock was read between asking and answering.
  const double time = row.facts->time;
  row.clock_off = time < answer.asked_at      ? time - answer.asked_at
                  : time > answer.answered_at ? time - answer.answered_at
                                              : 0;
  return row;
}

void judge_hosts(const PreflightNeeds& needs, Preflight& preflight) {
  const auto refuse = [&](std::string text) {
    preflight.refusals.push_back(std::move(text));
    preflight.may_pass = false;
  };
  std::map<std::string, std::vector<std::string>> nccl_of;  // hosts by version
  for (std::size_t h = 0; h < preflight.rows.size(); ++h) {
    const PreflightRow& row = preflight.rows[h];
    const std::string& name = row.host.name;
    if (!row.facts) {
      preflight.refusals.push_back(
          fmt::format("{}: {}; mend it, or take the host out of --hosts", name, row.problem));
      preflight.may_pass = preflight.may_pass && row.may_pass;
      continue;
    }
    const HostFacts& facts = *row.facts;
    if (facts.version != version())
      refuse(
          fmt::format("{}: runs ballot {}, this is {}; install the same everywhere, or name it "
                      "with --program",
                      name, facts.version, version()));
    if (std::abs(row.clock_off) > needs.clock_seconds)
      refuse(fmt::format("{}: its clock is {:.0f} s {} this one's; set it (NTP)", name,
                         std::abs(row.clock_off), row.clock_off < 0 ? "behind" : "before"));
    const int workers = h < needs.workers_of_host.size() ? needs.workers_of_host[h] : 0;
    if (!facts.folder_problem.empty())
      refuse(
          fmt::format("{}: output.folder {} cannot be written there ({}); all hosts have to see "
                      "one folder",
                      name, needs.run_folder, facts.folder_problem));
    else if (!facts.sees_witness) {
      const bool may_pass = preflight.may_pass && needs.again;
      refuse(
          fmt::format("{}: output.folder {} is another folder there: a file that this launcher "
                      "wrote in {} is not seen; all hosts and this machine have to see one",
                      name, needs.run_folder, preflight.witness_folder));
      preflight.may_pass = may_pass;
    } else if (facts.disk_bytes < needs.disk_bytes)
      refuse(fmt::format(
          "{}: {} are free where output.folder {} is, two checkpoints and the "
          "journal between them take {}",
          name, gigabytes(facts.disk_bytes), needs.run_folder, gigabytes(needs.disk_bytes)));
    // A machine may be there under several names. Containers of one share its memory, and each may
    // have GPUs of its own.
    int on_machine = 0;
    bool named_before = false;
    std::string also;
    for (std::size_t other = 0; other < preflight.rows.size(); ++other) {
      if (!preflight.rows[other].facts ||
          preflight.rows[other].facts->computer() != facts.computer())
        continue;
      const int there = other < needs.workers_of_host.size() ? needs.workers_of_host[other] : 0;
      on_machine += there;
      if (other >= h || there == 0) continue;
      named_before = true;
      if (preflight.rows[other].facts->machine == facts.machine)
        also = preflight.rows[other].host.name;
    }
    if (workers > 0 && needs.gpu) {
      if (facts.gpu_memory_bytes < needs.memory_bytes_per_worker && !facts.gpus.empty())
        refuse(fmt::format("{}: {} of a GPU's memory are free, a worker needs {}", name,
                           gigabytes(facts.gpu_memory_bytes),
                           gigabytes(needs.memory_bytes_per_worker)));
      if (!also.empty())
        refuse(
            fmt::format("{} and {} are one machine, and workers of both would take its first GPUs; "
                        "name it once",
                        also, name));
    } else if (const std::int64_t need = needs.memory_bytes_per_worker * on_machine;
               workers > 0 && !named_before && facts.memory_bytes < need) {
      refuse(fmt::format("{}: {} of memory are free, {} worker{} need {}; put fewer there", name,
                         gigabytes(facts.memory_bytes), on_machine, on_machine == 1 ? "" : "s",
                         gigabytes(need)));
    }
    if (needs.bf16 && workers > 0 && !facts.bf16 && facts.gpus.empty())
      refuse(
          fmt::format("{}: its processor has no bf16 products, which the run asks for; expected "
                      "\"f32\" or \"auto\" (train.compute, newton_schulz_type), or another host",
                      name));
    if (needs.gpu && static_cast<int>(facts.gpus.size()) < workers)
      refuse(fmt::format("{}: {} GPUs for {} workers{}; put fewer workers there, or {}", name,
                         facts.gpus.size(), workers,
                         facts.gpu_problem.empty() ? "" : " (" + facts.gpu_problem + ")",
                         needs.nccl ? "leave --transport nccl out" : "train.device = \"cpu\""));
    else if (needs.nccl && facts.nccl.empty() && workers > 0)
      refuse(fmt::format("{}: {}; install NCCL (libnccl2) there, or leave --transport nccl out",
                         name, facts.nccl_problem.empty() ? "no NCCL" : facts.nccl_problem));
    else if (needs.nccl && workers > 0)
      nccl_of[facts.nccl].push_back(name);
  }
  if (nccl_of.size() > 1) {
    std::string found;
    for (const auto& [version_there, names] : nccl_of)
      found += fmt::format("{}{} on {}", found.empty() ? "" : ", ", version_there,
                           fmt::join(names, ", "));
    refuse(fmt::format("hosts have different versions of NCCL: {}; install one everywhere", found));
  }
  const PreflightRow* usual = usual_model(preflight.rows);
  for (const PreflightRow& row : preflight.rows)
    if (row.facts && row.facts->model_digest != usual->facts->model_digest)
      refuse(fmt::format(
          "{}: model.folder {} has other contents there (digest {}) than on {} ({}); copy it anew",
          row.host.name, needs.model_folder, row.facts->model_digest.substr(0, 12),
          usual->host.name, usual->facts->model_digest.substr(0, 12)));
}

void judge_reach(Preflight& preflight) {
  const std::size_t count = preflight.rows.size();
  for (std::size_t from = 0; from < count; ++from) {
    if (!preflight.reached[from]) continue;
    for (std::size_t to = 0; to < count; ++to)
      if (const std::string& problem = preflight.reached[from]->problems[to]; !problem.empty())
        preflight.refusals.push_back(fmt::format(
            "{} does not reach {} at {} ({}): {}; open the way between them, or choose another "
            "network with --interface",
            preflight.rows[from].host.name, preflight.rows[to].host.name,
            preflight.network.of_host[to].address, preflight.network.of_host[to].name, problem));
  }
}

std::string Preflight::table() const {
  std::size_t widest = 4;
  for (const PreflightRow& row : rows) widest = std::max(widest, row.host.name.size());
  std::string out =
      fmt::format("{:<{}} {:>5} {:<28} {:>5} {:>10} {:>10} {:>8} {:>9} {:<14}\n", "host", widest,
                  "slots", "address", "cores", "memory", "disk", "clock", "reaches", "model, GPUs");
  for (std::size_t h = 0; h < rows.size(); ++h) {
    const PreflightRow& row = rows[h];
    if (!row.facts) {
      out += fmt::format("{:<{}} {:>5} {}\n", row.host.name, widest, row.host.slots, row.problem);
      continue;
    }
    const HostFacts& facts = *row.facts;
    const std::string address =
        h < network.of_host.size()
            ? fmt::format("{} {}", network.of_host[h].address, network.of_host[h].name)
            : "-";
    std::string reaches = "-";
    if (h < reached.size() && reached[h]) {
      const auto answered =
          std::count(reached[h]->problems.begin(), reached[h]->problems.end(), "");
      reaches = fmt::format("{} of {}", answered - 1, rows.size() - 1);
    }
    out += fmt::format(
        "{:<{}} {:>5} {:<28} {:>5} {:>10} {:>10} {:>8} {:>9} {:<14}\n", row.host.name, widest,
        row.host.slots, address, facts.cores, gigabytes(facts.memory_bytes),
        gigabytes(facts.disk_bytes),
        row.clock_off == 0 ? "same" : fmt::format("{:+.0f} s", row.clock_off), reaches,
        fmt::format("{}{}", facts.model_digest.empty() ? "-" : facts.model_digest.substr(0, 12),
                    facts.gpus.empty()
                        ? ""
                        : fmt::format(", {} x {}{}", facts.gpus.size(), facts.gpus[0].substr(0, 40),
                                      facts.nccl.empty() ? "" : ", " + facts.nccl)));
  }
  if (!network.reason.empty()) out += "network: " + network.reason + "\n";
  for (const std::string& refusal : refusals) out += "not started: " + refusal + "\n";
  return out;
}

Preflight look_before_start(const Starter& starter, const std::vector<Host>& hosts,
                            const PreflightNeeds& needs, const std::string& folder) {
  Preflight preflight;
  std::vector<std::string> names, resolved;
  for (const Host& host : hosts) {
    names.push_back(host.name);
    resolved.push_back(resolve(host.name));
  }
  const auto probing = [&](std::vector<std::string> words) {
    AgentOrder order;
    order.command = {starter.program, "probe"};
    order.command.insert(order.command.end(), words.begin(), words.end());
    order.folder = folder;
    order.drain_seconds = 1;
    return order;
  };

  std::vector<std::string> questions = {"--run-folder", needs.run_folder};
  if (!needs.model_folder.empty())
    questions.insert(questions.end(), {"--model", needs.model_folder});
  const Witness witness(needs.run_folder);
  if (witness.problem().empty()) {
    questions.insert(questions.end(), {"--witness", witness.path()});
    preflight.witness_folder = std::filesystem::path(witness.path()).parent_path();
  } else {
    preflight.refusals.push_back(
        fmt::format("this machine: output.folder {} cannot be written here ({}); all hosts and "
                    "this one have to see one folder",
                    needs.run_folder, witness.problem()));
    preflight.may_pass = false;
  }
  if (needs.gpu || needs.bf16) questions.push_back("--gpus");
  const double asked_at = now();
  // A model may be tens of gigabytes on a slow disk.
  const Duration patience = needs.patience * (needs.model_folder.empty() ? 1 : 20);
  const auto answers = run_on_hosts(
      starter, hosts, [&](std::size_t) { return probing(questions); }, Deadline::in(patience));
  for (std::size_t h = 0; h < hosts.size(); ++h)
    preflight.rows.push_back(read_answer(hosts[h], {answers[h], asked_at, answers[h].ended_at}));
  preflight.reached.resize(hosts.size());
  judge_hosts(needs, preflight);

  std::vector<HostFacts> facts;
  for (const PreflightRow& row : preflight.rows)
    if (row.facts) facts.push_back(*row.facts);
  if (facts.size() < hosts.size()) return preflight;  // the missing ones are named already
  try {
    preflight.network = choose_network(names, facts, resolved, needs.interface);
  } catch (const ConfigError& failure) {
    preflight.refusals.push_back(failure.what());
    preflight.may_pass = false;
    return preflight;
  }
  // Loopback needs no trial, and one host nobody else.
  if (hosts.size() == 1 || preflight.network.of_host[0].loopback) return preflight;

  std::string peers;
  for (std::size_t h = 0; h < hosts.size(); ++h)
    peers += fmt::format("{}{}:{}", h == 0 ? "" : ",", preflight.network.of_host[h].address,
                         facts[h].free_port);
  const auto reports = run_on_hosts(
      starter, hosts,
      [&](std::size_t h) {
        return probing({"--reach", peers, "--self", std::to_string(h), "--seconds", "10"});
      },
      Deadline::in(needs.patience));
  for (std::size_t h = 0; h < hosts.size(); ++h) {
    try {
      if (!reports[h].reached || reports[h].exit_code != 0)
        throw DataError("{}", why_not(reports[h]));
      preflight.reached[h] = decode_report(last_line(reports[h].output), hosts.size());
    } catch (const Error& failure) {
      preflight.refusals.push_back(
          fmt::format("{}: could not try the other hosts: {}", hosts[h].name, failure.what()));
    }
  }
  judge_reach(preflight);
  return preflight;
}

}  // namespace ballot
