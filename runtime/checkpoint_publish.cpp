#include "runtime/checkpoint_publish.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <optional>
#include <random>
#include <vector>

#include "core/error.h"
#include "core/file.h"
#include "core/hash.h"
#include "core/log.h"
#include "runtime/checkpoint.h"
#include "runtime/checkpoint_manifest.h"

namespace ballot {
namespace {

constexpr const char* kBest = "best";
constexpr const char* kPartial = ".partial";
constexpr const char* kGone = ".gone";  // no checkpoint any more, and no shares of one

std::string checkpoints_of(const std::string& run_folder) {
  return run_folder + "/checkpoints";
}

std::string name_of(std::int64_t step) {
  return fmt::format("step-{:08}", step);
}

// Of a name that nobody else uses at the same time, on no machine.
std::string unique() {
  static std::atomic<int> count = 0;
  static const std::uint32_t process = std::random_device()();
  return fmt::format("{:08x}-{}", process, count++);
}

// The step of ".step-00000150-...<ending>"; -1 for any other name.
std::int64_t step_of(const std::string& name, const char* ending) {
  if (!name.starts_with(".step-") || !name.ends_with(ending)) return -1;
  const std::string digits = name.substr(6, name.find_first_not_of("0123456789", 6) - 6);
  return digits.size() >= 8 && digits.size() <= 18 ? std::stoll(digits) : -1;
}

// Shares of a step, all of them or not.
struct Shares {
  std::string folder;
  int count = 0;                      // 0: no share is finished
  std::vector<CheckpointPart> parts;  // by index
  std::string missing;                // empty: all are there
};

// How many shares a folder is of: all names in it agree.
int share_count(const std::vector<std::string>& names) {
  for (const std::string& name : names) {
    if (!name.starts_with("part-") || !name.ends_with(".json")) continue;
    const std::size_t of = name.find("-of-");
    const std::string digits =
        of == std::string::npos ? "" : name.substr(of + 4, name.size() - of - 9);
    if (!digits.empty() && digits.size() < 7 &&
        std::ranges::all_of(digits, [](char c) { return c >= '0' && c <= '9'; }))
      return std::stoi(digits);
  }
  return 0;
}

Shares read_shares(const std::string& folder, std::int64_t step, std::optional<Digest> chain,
                   Disk& disk) {
  Shares shares;
  shares.folder = folder;
  const std::vector<std::string> names = disk.list(folder + "/trainer");
  shares.count = share_count(names);
  if (shares.count == 0) {
    shares.missing = fmt::format("{} holds no finished share", folder);
    return shares;
  }
  for (int i = 0; i < shares.count; ++i) {
    const std::string name = part_file(i, shares.count);
    if (!std::ranges::binary_search(names, name.substr(name.find('/') + 1))) {
      shares.missing =
          fmt::format("share {} of {} in {} is not finished", i + 1, shares.count, folder);
      return shares;
    }
    CheckpointPart part = read_part(folder, i, shares.count, disk);
    const CheckpointPart& first = i == 0 ? part : shares.parts.front();
    if (part.step != step || part.parameters != first.parameters || part.journal != first.journal ||
        (chain && (!part.journal || part.journal->chain != *chain))) {
      shares.missing = fmt::format(
          "{}/{} is of step {}, parameters {:016x}, history {}; expected step {}, parameters "
          "{:016x}, history {}",
          folder, name, part.step, part.parameters,
          part.journal ? to_string(part.journal->chain) : "none", step, first.parameters,
          chain           ? to_string(*chain)
          : first.journal ? to_string(first.journal->chain)
                          : "none");
      return shares;
    }
    shares.parts.push_back(std::move(part));
  }
  return shares;
}

// The shares of a step that can be published; else the reason why not of those that come closest.
Shares find_shares(const std::string& run_folder, std::int64_t step, std::optional<Digest> chain,
                   Disk& disk) {
  Shares best;
  const std::string folder = checkpoints_of(run_folder);
  best.missing = fmt::format("{} holds no shares of step {}", folder, step);
  for (const std::string& name : disk.list(folder)) {
    if (step_of(name, kPartial) != step) continue;
    Shares shares = read_shares(folder + "/" + name, step, chain, disk);
    if (shares.missing.empty()) return shares;
    best = std::move(shares);
  }
  return best;
}

// Writes the manifest over what the parts say. Sizes are looked at, bytes are not read again.
void write_manifest(const Shares& shares, Disk& disk) {
  std::vector<FileFact> files;
  for (const CheckpointPart& part : shares.parts) {
    for (const FileFact& file : part.files) {
      const std::uint64_t size = disk.size_bytes(shares.folder + "/" + file.path);
      if (size != file.size)
        throw CorruptFile("{}/{} has {} bytes, share {} has written {}", shares.folder, file.path,
                          size, part.index + 1, file.size);
      files.push_back(file);
    }
    files.push_back(fact_of(shares.folder, part_file(part.index, part.count), disk));
  }
  // Under a name of its own first: another may be publishing the same.
  const std::string temporary = fmt::format("trainer/.manifest-{}", unique());
  CheckpointOutput output(disk, shares.folder, temporary);
  output.append(manifest_json(std::move(files)));
  output.finish();
  disk.rename(shares.folder + "/" + temporary, shares.folder + "/" + kManifestFile);
  disk.sync_folder(shares.folder + "/trainer");
  disk.sync_folder(shares.folder);
}

// Whether the final folder is this step's of this history. It was whole when it got its name.
bool is_published(const std::string& path, std::optional<Digest> chain, Disk& disk) {
  if (disk.list(path).empty()) return false;
  if (!chain) return true;
  const std::vector<std::string> names = disk.list(path + "/trainer");
  const int count = share_count(names);
  if (count == 0) return false;
  const CheckpointPart part = read_part(path, 0, count, disk);
  return part.journal && part.journal->chain == *chain;
}

// `name` becomes a link to the checkpoint of this step.
void point(const std::string& run_folder, const std::string& name, std::int64_t step) {
  const std::string folder = checkpoints_of(run_folder), link = folder + "/" + name;
  const std::string temporary = fmt::format("{}/.{}-{}", folder, name, unique());
  if (::symlink(name_of(step).c_str(), temporary.c_str()) != 0) throw_file_error("link", temporary);
  if (::rename(temporary.c_str(), link.c_str()) != 0) throw_file_error("rename", temporary);
  sync_folder(folder);
}

// The step that `best` points at; -1: there is no such link.
std::int64_t best_of(const std::string& run_folder) {
  std::error_code none;
  const auto target = std::filesystem::read_symlink(checkpoints_of(run_folder) + "/" + kBest, none);
  return none ? -1 : step_of(fmt::format(".{}", target.filename().string()), "");
}

std::string gone_name(const std::string& run_folder, std::int64_t step) {
  return fmt::format("{}/.{}-{}{}", checkpoints_of(run_folder), name_of(step), unique(), kGone);
}

// What has such a name is nothing to anybody; whoever passes by may delete it.
void remove_gone(const std::string& path, Disk& disk) {
  try {
    disk.remove(path);
  } catch (const FileError&) {  // somebody else is at it, or the next one will be
  }
}

// Under a name that nobody takes for a checkpoint first: half a folder must not look like one.
void remove_folder(const std::string& run_folder, std::int64_t step, const std::string& path,
                   Disk& disk) {
  const std::string gone = gone_name(run_folder, step);
  try {
    disk.rename(path, gone);
  } catch (const FileError&) {
    if (!disk.list(path).empty()) throw;
    return;  // somebody else was faster
  }
  remove_gone(gone, disk);
}

void prune(const std::string& run_folder, std::int64_t step, const PublishPolicy& policy,
           Disk& disk) {
  std::int64_t kept = 0;
  const std::int64_t best = best_of(run_folder);
  for (const CheckpointName& one : checkpoint_names(run_folder, disk)) {
    const bool later = one.step > step && policy.replaces_later;
    const bool for_ever = (policy.keep_every > 0 && one.step % policy.keep_every == 0) ||
                          one.step == best || policy.best_step == one.step;
    if (later && one.step == best) disk.remove(checkpoints_of(run_folder) + "/" + kBest);
    if (later || (++kept > policy.keep && !for_ever))
      remove_folder(run_folder, one.step, one.path, disk);
  }
  disk.sync_folder(checkpoints_of(run_folder));
}

}  // namespace

std::string partial_folder(const std::string& run_folder, const TrainingState& training,
                           int shares) {
  std::uint64_t tag = hash64(training.digest, static_cast<std::uint64_t>(shares), 0);
  if (training.journal)
    tag = hash64(tag, training.journal->chain.high, training.journal->chain.low);
  return fmt::format("{}/.{}-{:08x}{}", checkpoints_of(run_folder), name_of(training.step),
                     static_cast<std::uint32_t>(tag), kPartial);
}

std::int64_t best_checkpoint(const std::string& run_folder, Disk& disk) {
  const std::int64_t step = best_of(run_folder);
  return step >= 0 && !disk.list(checkpoints_of(run_folder) + "/" + name_of(step)).empty() ? step
                                                                                           : -1;
}

std::string publish_shares(const std::string& run_folder, std::int64_t step,
                           std::optional<Digest> chain, Disk& disk) {
  const std::string folder = checkpoints_of(run_folder), path = folder + "/" + name_of(step);
  const std::string before = gone_name(run_folder, step);
  bool replaces = false;
  try {
    const Shares shares = find_shares(run_folder, step, chain, disk);
    if (!shares.missing.empty())
      throw FileError("step {} cannot be published: {}", step, shares.missing);
    write_manifest(shares, disk);
    // The same step, written before the run went back to before it, makes room.
    replaces = !disk.list(path).empty();
    if (replaces && disk.list(shares.folder).empty())
      throw FileError("{} is there no more", shares.folder);
    if (replaces) disk.rename(path, before);
    disk.rename(shares.folder, path);
  } catch (const FileError&) {
    // Somebody else may have put these shares into their place meanwhile.
    if (replaces && disk.list(path).empty() && !disk.list(before).empty())
      disk.rename(before, path);
    if (!is_published(path, chain, disk)) throw;
    return path;
  }
  disk.sync_folder(folder);
  if (replaces) remove_gone(before, disk);
  return path;
}

std::string publish_checkpoint(const std::string& run_folder, std::int64_t step,
                               std::optional<Digest> chain, const PublishPolicy& policy) {
  require(policy.keep > 0, "of the checkpoints {} are to be kept", policy.keep);
  Disk& disk = system_disk();
  std::string path = publish_shares(run_folder, step, chain, disk);
  point(run_folder, "latest",
        policy.replaces_later ? step : std::max(step, checkpoint_names(run_folder).front().step));
  if (policy.best_step && best_of(run_folder) != *policy.best_step &&
      !disk.list(checkpoints_of(run_folder) + "/" + name_of(*policy.best_step)).empty())
    point(run_folder, kBest, *policy.best_step);
  prune(run_folder, step, policy, disk);
  remove_partial_checkpoints(run_folder, step, disk);
  return path;
}

void remove_partial_checkpoints(const std::string& run_folder, std::int64_t before_step,
                                Disk& disk) {
  const std::string folder = checkpoints_of(run_folder);
  for (const std::string& name : disk.list(folder)) {
    const std::string path = folder + "/" + name;
    if (const std::int64_t step = step_of(name, kPartial); step >= 0 && step < before_step)
      remove_folder(run_folder, step, path, disk);
    if (const std::int64_t step = step_of(name, kGone); step >= 0 && step < before_step)
      remove_gone(path, disk);
  }
}

}  // namespace ballot
