#include "runtime/run_config.h"

#include <fmt/ranges.h>
#include <sys/stat.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <limits>
#include <sstream>

#include "collectives/transport/network_address.h"  // parse_listen
#include "core/error.h"
#include "models/chat_template.h"  // chat_template_names
#include "runtime/config_table.h"

namespace ballot {
namespace {

constexpr std::array<ParameterKind, 4> kKinds = {ParameterKind::hidden_matrix,
                                                 ParameterKind::embedding, ParameterKind::head,
                                                 ParameterKind::vector};
const std::vector<std::string> kRules = {"olion", "lion", "signum", "muon", "adamw", "sgd"};
const std::vector<std::string> kReduces = {"vote", "mean-fp32", "mean-bf16"};

Rule rule_from(const std::string& name) {
  const auto found = std::find(kRules.begin(), kRules.end(), name);
  return static_cast<Rule>(found - kRules.begin());
}
Reduce reduce_from(const std::string& name) {
  const auto found = std::find(kReduces.begin(), kReduces.end(), name);
  return static_cast<Reduce>(found - kReduces.begin());
}

const char* name_of(DType type) {
  return type == DType::f32 ? "f32" : "bf16";
}
DType dtype_from(const std::string& name) {
  return name == "f32" ? DType::f32 : DType::bf16;
}

// Where neither [optimizer] nor the group says one: what docs/learning.md's runs chose, the
// smaller where a larger model wanted less. signum's is lion's, and sgd's nobody has looked for.
double default_rate(Rule rule) {
  switch (rule) {
    case Rule::adamw:
    case Rule::lion:
    case Rule::signum:
      return 0.001;
    case Rule::olion:
    case Rule::muon:
    case Rule::sgd:
      break;
  }
  return 0.006;
}

constexpr double kRateOfTheRule = std::numeric_limits<double>::quiet_NaN();

// What [optimizer] says: the preset that fills all four groups before [group.*] is read.
struct Preset {
  std::string rule = "olion";
  std::string reduce;  // empty: vote for sign rules, mean-fp32 for dense ones
  double rate = kRateOfTheRule;
  double weight_decay = 0.1;
};

void fill_groups(const Preset& preset, RunConfig& config) {
  const Rule rule = rule_from(preset.rule);
  const Reduce reduce = !preset.reduce.empty() ? reduce_from(preset.reduce)
                        : is_sign_rule(rule)   ? Reduce::vote
                                               : Reduce::mean_f32;
  for (const ParameterKind kind : kKinds) {
    const bool hidden = kind == ParameterKind::hidden_matrix,
               vector = kind == ParameterKind::vector;
    // Muon is defined for hidden matrices; its authors leave the rest to AdamW. Vectors are a few
    // thousand floats.
    const bool adamw = (vector && rule != Rule::sgd) || (rule == Rule::muon && !hidden);
    ParameterGroup group = default_group(adamw ? Rule::adamw : rule);
    group.name = to_string(kind);
    group.reduce = vector || adamw ? (reduce == Reduce::vote ? Reduce::mean_f32 : reduce) : reduce;
    group.rate = std::isnan(preset.rate)        ? default_rate(group.rule)
                 : vector && is_sign_rule(rule) ? default_rate(Rule::adamw)
                                                : preset.rate;
    group.weight_decay = vector ? 0.0 : preset.weight_decay;
    group.newton_schulz = group.rule == Rule::olion && hidden;
    if (rule == Rule::muon && hidden) group.newton_schulz = true;
    config.groups[static_cast<std::size_t>(kind)] = group;
  }
}

// Another rule for one group: its defaults, but the rate, decay and wire that were set stay.
void change_rule(const std::string& name, ParameterKind kind, bool rate_is_set,
                 ParameterGroup& group) {
  const ParameterGroup before = group;
  group = default_group(rule_from(name));
  group.name = before.name;
  group.rate = rate_is_set ? before.rate : default_rate(group.rule);
  group.weight_decay = before.weight_decay;
  group.clip_norm = before.clip_norm;
  group.reduce =
      !is_sign_rule(group.rule) && before.reduce == Reduce::vote ? Reduce::mean_f32 : before.reduce;
  group.newton_schulz = (group.rule == Rule::olion || group.rule == Rule::muon) &&
                        kind == ParameterKind::hidden_matrix;
}

void add_preset(ConfigTable& table, Preset& preset) {
  table.add_choice(
      "optimizer.preset", kRules, "the rule of all groups",
      [&preset](const std::string& name) { preset.rule = name; },
      [&preset] { return preset.rule; });
  table.add_choice(
      "optimizer.reduce", kReduces, "vote, or the mean gradient; vectors always take the mean",
      [&preset](const std::string& name) { preset.reduce = name; },
      [&preset] { return preset.reduce.empty() ? std::string("vote") : preset.reduce; });
  table.add("optimizer.rate", preset.rate,
            "peak learning rate; where it is not set: olion and muon 0.006, adamw and lion 0.001",
            0.0, 1e3);
  table.add("optimizer.weight_decay", preset.weight_decay, "decoupled, on matrices", 0.0, 1e3);
}

// `rate_is_set`: by [optimizer], so that a group of another rule keeps it.
void add_groups(ConfigTable& table, RunConfig& config, bool rate_is_set) {
  for (const ParameterKind kind : kKinds) {
    ParameterGroup& group = config.groups[static_cast<std::size_t>(kind)];
    const std::string prefix = std::string("group.") + to_string(kind) + ".";
    const auto key = [&prefix](const char* name) { return prefix + name; };
    table.add_choice(
        key("rule"), kRules, "",
        [&group, kind, rate_is_set](const std::string& name) {
          if (name != to_string(group.rule)) change_rule(name, kind, rate_is_set, group);
        },
        [&group] { return to_string(group.rule); });
    table.add_choice(
        key("reduce"), kReduces, "",
        [&group](const std::string& name) { group.reduce = reduce_from(name); },
        [&group] { return to_string(group.reduce); });
    table.add(key("rate"), group.rate, "peak learning rate", 0.0, 1e3);
    table.add(key("weight_decay"), group.weight_decay, "decoupled", 0.0, 1e3);
    table.add(key("beta1"), group.beta1, "olion, lion, adamw", 0.0, 1.0);
    table.add(key("beta2"), group.beta2, "olion, lion, adamw", 0.0, 1.0);
    table.add(key("epsilon"), group.epsilon, "adamw", 0.0, 1.0);
    table.add(key("momentum"), group.momentum, "muon, signum, sgd", 0.0, 1.0);
    table.add(key("newton_schulz"), group.newton_schulz, "olion: orthogonalize before the sign");
    table.add_choice(
        key("newton_schulz_type"), {"f32", "bf16"}, "type of its products",
        [&group](const std::string& name) { group.newton_schulz_type = dtype_from(name); },
        [&group] { return name_of(group.newton_schulz_type); });
    table.add_choice(
        key("newton_schulz_coefficients"), {"keller", "polar-express"},
        "of its iterations: one polynomial for all, or one for each",
        [&group](const std::string& name) {
          group.newton_schulz_coefficients =
              name == "keller" ? Coefficients::keller : Coefficients::polar_express;
        },
        [&group] {
          return std::string(group.newton_schulz_coefficients == Coefficients::keller
                                 ? "keller"
                                 : "polar-express");
        });
    table.add_choice(
        key("momentum_type"), {"f32", "bf16"}, "bf16 halves the memory and loses small gradients",
        [&group](const std::string& name) { group.momentum_type = dtype_from(name); },
        [&group] { return name_of(group.momentum_type); });
    table.add(key("abstain_below"), group.abstain_below,
              "a block abstains below this part of the tensor's RMS", 0.0, 1e3);
    table.add_choice(
        key("embedding_rows"), {"seen", "momentum"},
        "rows without a token in the batch abstain, or vote",
        [&group](const std::string& name) {
          group.embedding_rows = name == "seen" ? EmbeddingRows::seen : EmbeddingRows::momentum;
        },
        [&group] { return group.embedding_rows == EmbeddingRows::seen ? "seen" : "momentum"; });
    table.add(key("clip_norm"), group.clip_norm,
              "norm of one tensor's contribution to a mean; 0: never", 0.0, 1e30);
  }
}

void add_source(ConfigTable& table, const std::string& name, TokenSource& source) {
  const std::string prefix = "data." + name;
  table.add(prefix, source.path, "text, .jsonl, .bin or .idx (docs/data.md)");
  table.add_choice(
      prefix + "_format", {"auto", "text", "jsonl", "bin", "megatron"},
      "auto: by the file's extension",
      [&source](const std::string& format) { source.format = format; },
      [&source] { return source.format; });
  table.add(prefix + "_template", source.row_template,
            "jsonl: text of a row with {fields}; {|}: here the completion begins");
  table.add(prefix + "_first_row", source.first_row, "jsonl: first row", 0);
  table.add(prefix + "_last_row", source.last_row, "jsonl: the row after the last; -1: to the end",
            -1);
  table.add(prefix + "_first_part", source.first_part, "all but jsonl: where the part begins", 0.0,
            1.0);
  table.add(prefix + "_last_part", source.last_part, "all but jsonl: where the part ends", 0.0,
            1.0);
}

// How documents become samples.
void add_documents(ConfigTable& table, DocumentRules& rules) {
  table.add_choice(
      "data.windows", {"auto", "stream", "packed", "single"},
      "stream: windows start anywhere; packed: whole documents that do not see each other, as many "
      "as fit; single: one a window; auto: packed where something is not trained on, else stream",
      [&rules](const std::string& name) {
        for (const Windows windows :
             {Windows::automatic, Windows::stream, Windows::packed, Windows::single})
          if (name == to_string(windows)) rules.windows = windows;
      },
      [&rules] { return to_string(rules.windows); });
  table.add_choice(
      "data.train_on", {"auto", "all", "completion"},
      "completion: not on prompts and others' messages; auto: so where rows tell them apart "
      "(question and answer: with windows packed or single), else all",
      [&rules](const std::string& name) {
        for (const TrainOn train_on : {TrainOn::automatic, TrainOn::all, TrainOn::completion})
          if (name == to_string(train_on)) rules.train_on = train_on;
      },
      [&rules] { return to_string(rules.train_on); });
  std::vector<std::string> templates = chat_template_names();
  templates.insert(templates.begin(), "auto");
  table.add_choice(
      "data.chat_template", templates, "of rows with messages; auto: the model's own, by its text",
      [&rules](const std::string& name) { rules.chat_template = name; },
      [&rules] { return rules.chat_template; });
  table.add_choice(
      "data.long_documents", {"cut", "refuse"},
      "of more than T + 1 tokens, with windows packed or single: cut into windows, or an error",
      [&rules](const std::string& name) {
        rules.long_documents = name == "cut" ? LongDocuments::cut : LongDocuments::refuse;
      },
      [&rules] { return to_string(rules.long_documents); });
}

// [optimizer] is applied before the groups and then stands resolved in them, so a resolved file has
// no [optimizer].
void add_run(ConfigTable& table, RunConfig& config) {
  table.add("model.folder", config.model_folder,
            "Hugging Face folder with config.json and model.safetensors");
  add_source(table, "train", config.train_data);
  add_source(table, "validation", config.validation_data);
  add_documents(table, config.documents);
  table.add("data.sequence_length", config.sequence_length, "T, tokens", 1, 1 << 24);
  table.add("train.steps", config.steps, "", 1);
  table.add("train.batch", config.batch, "sequences per worker and micro-batch", 1, 1 << 20);
  table.add("train.micro_batches", config.micro_batches, "per step", 1, 1 << 20);
  table.add("train.seed", config.seed, "of samples and coins", 0);
  table.add_choice(
      "train.compute", {"auto", "f32", "tf32", "bf16"},
      "type of the model's products; auto: bf16 where it is native; tf32: of f32 rounded to 10 "
      "bits "
      "of fraction, on a GPU only",
      [&config](const std::string& name) {
        config.compute = name == "auto"   ? Compute::automatic
                         : name == "f32"  ? Compute::f32
                         : name == "tf32" ? Compute::tf32
                                          : Compute::bf16;
      },
      [&config] { return to_string(config.compute); });
  table.add_choice(
      "train.device", {"auto", "cpu", "cuda"}, "",
      [&config](const std::string& name) { config.device = name; },
      [&config] { return config.device; });
  table.add("train.threads", config.threads, "per worker; 0: the machine's cores / its workers", 0,
            4096);
  table.add("train.evaluate_every", config.evaluate_every,
            "steps; 0: before the first and after the last", 0);
  table.add("train.validation_windows", config.validation_windows, "0: all", 0);
  table.add("train.checkpoint_every", config.checkpoint_every, "steps; 0: after the last", 0);
  table.add("train.keep_checkpoints", config.keep_checkpoints, "the newest so many", 1);
  table.add_choice(
      "train.recompute", {"none", "layer"},
      "layer: the backward computes each layer's forward again, with the same bits: less memory, "
      "about a third more work",
      [&config](const std::string& name) {
        config.recompute =
            name == "layer" ? RunConfig::Recompute::layer : RunConfig::Recompute::none;
      },
      [&config] { return to_string(config.recompute); });
  table.add("train.freeze", config.freeze,
            "names of parameters that are not trained; * is any text, ? any character");
  table.add("train.no_decay", config.no_decay,
            "names of parameters that do not decay, whatever their group says");
  table.add("train.keep_best", config.keep_best,
            "checkpoints/best: that of the lowest held-out loss, which stays");
  table.add("train.early_stop_evaluations", config.early_stop_evaluations,
            "in a row without a lower held-out loss, after which the run ends; 0: never", 0);
  table.add("train.early_stop_min_delta", config.early_stop_min_delta,
            "nats by which a loss must be lower to count", 0.0, 1e3);
  table.add_choice(
      "schedule.shape", {"constant", "linear", "cosine"}, "after the warm-up",
      [&config](const std::string& name) {
        config.schedule.shape = name == "constant" ? RateSchedule::Shape::constant
                                : name == "linear" ? RateSchedule::Shape::linear
                                                   : RateSchedule::Shape::cosine;
      },
      [&config] {
        return config.schedule.shape == RateSchedule::Shape::constant ? "constant"
               : config.schedule.shape == RateSchedule::Shape::linear ? "linear"
                                                                      : "cosine";
      });
  table.add("schedule.warmup_steps", config.schedule.warmup_steps, "", 0);
  table.add("schedule.final_factor", config.schedule.final_factor, "of the peak rate, at the end",
            0.0, 1.0);
  table.add_choice(
      "vote.ties", {"coin", "hold"}, "a shared coin, or the element does not move",
      [&config](const std::string& name) {
        config.ties = name == "coin" ? Ties::coin : Ties::hold;
      },
      [&config] { return to_string(config.ties); });
  table.add_choice(
      "vote.schedule", {"auto", "sharded", "gathered", "lanes", "hierarchical"},
      "who sends what to whom; the same bits by all; auto: chosen by a measurement of the link",
      [&config](const std::string& name) {
        config.vote_schedule.reset();
        for (const Schedule schedule :
             {Schedule::sharded, Schedule::gathered, Schedule::lanes, Schedule::hierarchical})
          if (name == to_string(schedule)) config.vote_schedule = schedule;
      },
      [&config] { return config.vote_schedule ? to_string(*config.vote_schedule) : "auto"; });
  table.add_choice(
      "vote.estimator", {"majority", "majority-of-majorities"},
      "of all voters, or of nodes that each cast their own majority (other bits)",
      [&config](const std::string& name) {
        config.estimator =
            name == "majority" ? Estimator::majority : Estimator::majority_of_majorities;
      },
      [&config] { return to_string(config.estimator); });
  table.add("vote.members", config.members,
            "workers (ranks in a row) that are one voter: one mean gradient, one momentum, one "
            "ballot",
            1, 1024);
  table.add(
      "vote.cut", config.cut,
      "a matrix that would hold up the other members of a voter may be cut among several; for "
      "members that have cores of their own");
  table.add("vote.node_size", config.node_size,
            "workers of a node (ranks in a row), for the hierarchical schedule", 1, 1024);
  table.add("vote.piece_elements", config.piece_elements,
            "elements that travel as one piece; 0: chosen by size", 0);
  table.add("vote.average_momentum_every", config.average_momentum_every,
            "steps after which all voters take the mean of their momenta (bf16 on the wire); 0: "
            "never",
            0);
  table.add("vote.overlap", config.overlap, "ballots and means leave while backward goes on");
  table.add("vote.deadline_seconds", config.deadline_seconds, "of any wait for peers", 0.001, 1e6);
  table.add("checkpoint.overlap", config.checkpoint.overlap,
            "steps go on while one is written; false: they wait until it is published");
  table.add("checkpoint.staging_mib", config.checkpoint.staging_mib,
            "of memory for tensors that a step is about to change and the disk has not taken yet; "
            "when it is full a step waits",
            1, 1 << 20);
  table.add("checkpoint.shard_mib", config.checkpoint.shard_mib,
            "parameters are written to as many files as have this much, one a worker at most; 0: "
            "one a worker",
            0, 1 << 30);
  table.add("checkpoint.keep_every", config.checkpoint.keep_every,
            "checkpoints of steps that are multiples of it stay for ever; 0: none", 0);
  table.add_choice(
      "journal.enabled", {"auto", "on", "off"},
      "verdicts of every step on disk, to rebuild any step from; auto: where the run can be "
      "replayed",
      [&config](const std::string& name) {
        config.journal.enabled = name == "auto" ? JournalConfig::Enabled::automatic
                                 : name == "on" ? JournalConfig::Enabled::on
                                                : JournalConfig::Enabled::off;
      },
      [&config] { return to_string(config.journal.enabled); });
  table.add("journal.sync_every_ms", config.journal.sync_every_ms,
            "between two fsyncs; no step waits for one; a power cut takes back this much", 1,
            3600000);
  table.add("journal.copies", config.journal.copies,
            "workers that keep each chunk's bits (1: they share a disk); 0: all", 0, 1024);
  table.add("journal.segment_mib", config.journal.segment_mib, "of one file", 1, 1 << 20);
  table.add("journal.queue_mib", config.journal.queue_mib,
            "of memory for what waits for the disk; when it is full a step waits", 1, 1 << 20);
  table.add("journal.mean_limit_bytes", config.journal.mean_limit_bytes,
            "of means a step; a run with more keeps no journal and recovers from checkpoints only",
            0);
  table.add("audit.repairs", config.audit.repairs,
            "a replica that differs takes the majority's bits, or what a replay of the journal "
            "confirms; false: the run stops");
  table.add_choice(
      "audit.bad_voter", {"warn", "abstain"},
      "a voter whose ballots agree with nobody's for a window of steps: say so, or let it abstain "
      "too",
      [&config](const std::string& name) {
        config.audit.bad_voter =
            name == "warn" ? AuditConfig::BadVoter::warn : AuditConfig::BadVoter::abstain;
      },
      [&config] { return to_string(config.audit.bad_voter); });
  table.add("audit.agreement_window", config.audit.agreement_window,
            "steps; once in so many, agreement is also told by layer", 2, 100000);
  table.add("output.folder", config.output_folder, "run directory");
  table.add(
      "output.prometheus", config.prometheus,
      "HOST:PORT where each worker answers Prometheus, such as 127.0.0.1:0; port 0: any, which "
      "several workers of a machine need; empty: none (docs/watching.md)");
  table.add("output.tensorboard", config.tensorboard,
            "event files for TensorBoard in output.folder/tensorboard");
}

bool is_file(const std::string& path) {
  struct stat info {};
  return stat(path.c_str(), &info) == 0 && S_ISREG(info.st_mode);
}

void check_combinations(const RunConfig& config, Machines machines,
                        std::vector<std::string>& problems) {
  const bool sees_files = machines != Machines::others;
  const auto wrong = [&problems](auto format, auto&&... args) {
    problems.push_back(fmt::format(fmt::runtime(format), args...));
  };
  if (config.model_folder.empty())
    wrong("model.folder is missing: expected a Hugging Face folder");
  else if (sees_files && !is_file(config.model_folder + "/config.json"))
    wrong("model.folder = \"{}\": there is no config.json in it", config.model_folder);
  if (config.train_data.path.empty())
    wrong("data.train is missing: expected a text, .jsonl, .bin or .idx file");
  for (const auto& [key, source] : {std::pair{"data.train", &config.train_data},
                                    std::pair{"data.validation", &config.validation_data}}) {
    if (source->path.empty()) continue;
    if (sees_files && !is_file(source->path))
      wrong("{} = \"{}\": there is no such file", key, source->path);
    if (source->first_part >= source->last_part)
      wrong("{}_first_part = {} is not below {}_last_part = {}", key, source->first_part, key,
            source->last_part);
    if (source->last_row >= 0 && source->first_row >= source->last_row)
      wrong("{}_first_row = {} is not below {}_last_row = {}", key, source->first_row, key,
            source->last_row);
    else if (source->first_part < source->last_part)
      try {
        settled_format(*source);
      } catch (const ConfigError& failure) {
        problems.push_back(fmt::format("{} = {}", key, failure.what()));
      }
  }
  if (config.documents.windows == Windows::stream &&
      config.documents.train_on == TrainOn::completion)
    wrong(
        "data.train_on = \"completion\" with data.windows = \"stream\": a window of it may hold no "
        "completion, expected \"packed\" or \"single\"");
  if (config.output_folder.empty()) wrong("output.folder is missing: expected the run directory");
  if (config.evaluate_every > 0 && config.validation_data.path.empty())
    wrong("train.evaluate_every = {} without data.validation", config.evaluate_every);
  if (config.keep_best && config.validation_data.path.empty())
    wrong("train.keep_best = true without data.validation: no loss says which is best");
  if (config.early_stop_evaluations > 0 && config.validation_data.path.empty())
    wrong("train.early_stop_evaluations = {} without data.validation",
          config.early_stop_evaluations);
  if (config.early_stop_evaluations > 0 && config.evaluate_every == 0)
    wrong(
        "train.early_stop_evaluations = {} with train.evaluate_every = 0: the held-out loss is "
        "only "
        "known when the run has ended",
        config.early_stop_evaluations);
  if (config.audit.bad_voter == AuditConfig::BadVoter::abstain &&
      config.estimator != Estimator::majority)
    wrong(
        "audit.bad_voter = \"abstain\" with vote.estimator = \"{}\": there a node is what agrees "
        "or "
        "does not, expected \"warn\"",
        to_string(config.estimator));
  if (!config.prometheus.empty()) {
    try {
      parse_listen(config.prometheus, "output.prometheus =");
    } catch (const ConfigError& failure) {
      problems.push_back(failure.what());
    }
  }
  if (config.schedule.warmup_steps > config.steps)
    wrong("schedule.warmup_steps = {} is more than train.steps = {}", config.schedule.warmup_steps,
          config.steps);
  // Of what depends on the device only what the run file says itself is looked at where it is
  // another machine's, or there is none.
  std::optional<Device> found;
  try {
    if (machines == Machines::this_one) found = find_device(config);
  } catch (const WorldError& failure) {
    problems.push_back(fmt::format("train.{}", failure.what()));
  }
  const Device device = found.value_or(Device{});
  if (found && config.compute == Compute::bf16 && !has_bf16(device))
    wrong("train.compute = \"bf16\": this processor ({}) has no bf16 products; they need AVX-512",
          processor_features(device));
  if (config.compute == Compute::tf32 && (found ? device == Device{} : config.device == "cpu"))
    wrong("train.compute = \"tf32\": only a GPU has such products, and train.device is the CPU");
  if ((device != Device{} || config.device.starts_with("cuda")) && config.members > 1)
    wrong("vote.members = {} with train.device = \"{}\": members of a voter work on CPUs only",
          config.members, config.device);
  if (config.average_momentum_every > 0 && config.members > 1)
    wrong("vote.average_momentum_every = {} with vote.members = {}: it is for voters of one worker",
          config.average_momentum_every, config.members);
  if (config.node_size > 1 && config.vote_schedule &&
      *config.vote_schedule != Schedule::hierarchical)
    wrong("vote.node_size = {} with vote.schedule = \"{}\"; only hierarchical has nodes",
          config.node_size, to_string(*config.vote_schedule));
  if (config.estimator == Estimator::majority_of_majorities &&
      config.vote_schedule != Schedule::hierarchical)
    wrong("vote.estimator = \"majority-of-majorities\" needs vote.schedule = \"hierarchical\"");
  for (const ParameterGroup& group : config.groups) {
    if (!is_sign_rule(group.rule) && group.reduce == Reduce::vote)
      wrong(
          "group.{}: rule \"{}\" is dense and cannot vote; use reduce = \"mean-fp32\" or a sign "
          "rule (olion, lion, "
          "signum)",
          group.name, to_string(group.rule));
    if (group.newton_schulz && group.rule != Rule::olion && group.rule != Rule::muon)
      wrong("group.{}: newton_schulz = true with rule \"{}\"; only olion and muon have it",
            group.name, to_string(group.rule));
    if (group.newton_schulz && group.name != "hidden")
      wrong("group.{}: newton_schulz = true; it is for hidden matrices only", group.name);
    if (group.abstain_below > 0 && group.reduce != Reduce::vote)
      wrong("group.{}: abstain_below = {} with reduce = \"{}\"; only votes abstain", group.name,
            group.abstain_below, to_string(group.reduce));
    if (group.newton_schulz_type == DType::bf16 && group.newton_schulz && found &&
        !has_bf16(device))
      wrong("group.{}: newton_schulz_type = \"bf16\": this processor ({}) has no bf16 products",
            group.name, processor_features(device));
    if (group.rule == Rule::muon && (group.name != "hidden" || !group.newton_schulz))
      wrong("group.{}: rule \"muon\" is for hidden matrices with newton_schulz = true", group.name);
    if (group.rule == Rule::adamw &&
        (group.beta1 >= 1 || group.beta2 >= 1 || !(static_cast<float>(group.epsilon) > 0)))
      wrong(
          "group.{}: adamw with beta1 = {}, beta2 = {}, epsilon = {}: expected betas below 1 and a "
          "positive epsilon",
          group.name, group.beta1, group.beta2, group.epsilon);
    if (group.rule == Rule::adamw && group.momentum_type == DType::bf16)
      wrong("group.{}: momentum_type = \"bf16\" with adamw, whose state is fp32", group.name);
    if (group.name == "vector" && group.reduce == Reduce::vote)
      wrong(
          "group.vector: reduce = \"vote\": vectors take the full-precision mean (a few thousand "
          "floats)");
  }
}

}  // namespace

const char* to_string(Compute compute) {
  return compute == Compute::automatic ? "auto"
         : compute == Compute::f32     ? "f32"
         : compute == Compute::tf32    ? "tf32"
                                       : "bf16";
}
const char* to_string(RunConfig::Recompute recompute) {
  return recompute == RunConfig::Recompute::layer ? "layer" : "none";
}
const char* to_string(Ties ties) {
  return ties == Ties::coin ? "coin" : "hold";
}
const char* to_string(AuditConfig::BadVoter policy) {
  return policy == AuditConfig::BadVoter::warn ? "warn" : "abstain";
}

const char* to_string(JournalConfig::Enabled enabled) {
  return enabled == JournalConfig::Enabled::automatic ? "auto"
         : enabled == JournalConfig::Enabled::on      ? "on"
                                                      : "off";
}

Device find_device(const RunConfig& config, int local_rank, std::string* reason) {
  if (config.device != "auto" || config.members == 1)
    return find_device(config.device, local_rank, reason);
  if (reason != nullptr) *reason = "chose the CPU; members of a voter work on CPUs only";
  return {};
}

DType resolve_compute(Compute compute, Device device) {
  if (compute == Compute::automatic) return has_native_bf16(device) ? DType::bf16 : DType::f32;
  if (compute == Compute::bf16 && !has_bf16(device))
    throw Unavailable("compute = \"bf16\": this processor ({}) has no bf16 products",
                      processor_features(device));
  if (compute == Compute::tf32 && device.kind == Device::Kind::cpu)
    throw Unavailable("compute = \"tf32\": only a GPU has such products, this is the CPU");
  return compute == Compute::bf16 ? DType::bf16 : DType::f32;
}

Float32Products float32_products(Compute compute) {
  return compute == Compute::tf32 ? Float32Products::tf32 : Float32Products::full;
}

const char* name_of_products(Compute compute, DType type) {
  return compute == Compute::tf32 ? to_string(compute) : to_string(type);
}

namespace {

// No machines: the combinations of values are not looked at.
RunConfig parse_config(const std::string& text, const std::string& path,
                       const std::vector<std::string>& settings, std::optional<Machines> machines) {
  RunConfig config;
  Preset preset;
  std::vector<std::string> ignored, problems;
  {  // The preset first, from a table of everything so that other keys are known; mistakes are
     // reported below.
    RunConfig scratch;
    fill_groups(preset, scratch);
    ConfigTable table;
    add_preset(table, preset);
    add_run(table, scratch);
    add_groups(table, scratch, false);
    table.apply(text, path, settings, ignored);
  }
  fill_groups(preset, config);
  ConfigTable table;
  add_preset(table, preset);
  add_run(table, config);
  add_groups(table, config, !std::isnan(preset.rate));
  table.apply(text, path, settings, problems);
  config.schedule.steps = config.steps;
  if (problems.empty() && machines) check_combinations(config, *machines, problems);
  if (!problems.empty())
    throw ConfigError("{} problem{} in {}:\n  {}", problems.size(), problems.size() == 1 ? "" : "s",
                      path, fmt::join(problems, "\n  "));
  return config;
}

std::string read_text(const std::string& path) {
  std::ifstream file(path);
  if (!file) throw ConfigError("cannot read the run file {}", path);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

}  // namespace

RunConfig parse_run_config(const std::string& text, const std::string& path,
                           const std::vector<std::string>& settings) {
  return parse_config(text, path, settings, Machines::this_one);
}

RunConfig read_run_config(const std::string& path, const std::vector<std::string>& settings,
                          Machines machines) {
  return parse_config(read_text(path), path, settings, machines);
}

RunConfig read_resolved_config(const std::string& path) {
  return parse_config(read_text(path), path, {}, std::nullopt);
}

std::array<ParameterGroup, 4> preset_groups(const std::string& rule, double rate) {
  Preset preset;
  preset.rule = rule;
  preset.rate = rate;
  RunConfig config;
  fill_groups(preset, config);
  return config.groups;
}

std::string to_toml(const RunConfig& config) {
  RunConfig copy = config;
  ConfigTable table;
  add_run(table, copy);
  add_groups(table, copy, true);
  return table.to_toml();
}

std::string run_config_reference() {
  RunConfig config;
  Preset preset;
  preset.rate = default_rate(Rule::olion);
  fill_groups(preset, config);
  ConfigTable table;
  add_run(table, config);
  add_preset(table, preset);
  add_groups(table, config, true);
  return table.reference();
}

}  // namespace ballot
