#include "tests/process/small_run.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>

namespace ballot {

namespace fs = std::filesystem;

void SmallRun::SetUp() {
  const Ended made = ballot({"init", "--hidden", "64", "--layers", "2", "--heads", "4",
                             "--kv-heads", "2", "--out", "model"});
  ASSERT_EQ(made.exit_code, 0) << made.output;
  std::string text, held_out;
  for (int i = 0; i < 300; ++i)
    text += "the square of " + std::to_string(i) + " is " + std::to_string(i * i) + "\n";
  for (int i = 301; i < 340; ++i)
    held_out += "the square of " + std::to_string(i) + " is unknown\n";
  write("text.txt", text);
  write("held-out.txt", held_out);
  write("run.toml",
        "[model]\nfolder = \"model\"\n"
        "[data]\ntrain = \"text.txt\"\nvalidation = \"held-out.txt\"\nsequence_length = 32\n"
        "[train]\nsteps = 8\nbatch = 2\ncheckpoint_every = 4\n"
        "[output]\nfolder = \"out\"\n");
}

Ended SmallRun::ballot(const std::vector<std::string>& arguments,
                       const Environment& variables) const {
  return run_command(arguments, folder_.path(), variables);
}

std::vector<std::string> SmallRun::launch(int workers, const std::string& output,
                                          const std::vector<std::string>& settings) const {
  std::vector<std::string> words{"launch", "run.toml", "--workers", std::to_string(workers)};
  words.insert(words.end(), {"--set", "output.folder=" + output});
  for (const std::string& setting : settings) {
    if (setting.starts_with("--"))
      words.push_back(setting);
    else
      words.insert(words.end(), {"--set", setting});
  }
  return words;
}

std::string SmallRun::train(int workers, const std::string& output,
                            const std::vector<std::string>& settings) const {
  const Ended ended = ballot(launch(workers, output, settings));
  EXPECT_EQ(ended.exit_code, 0) << ended.output;
  return ended.output;
}

std::string SmallRun::read(const std::string& name) const {
  std::ifstream source(file(name), std::ios::binary);
  EXPECT_TRUE(source.is_open()) << "cannot read " << file(name);
  std::ostringstream bytes;
  bytes << source.rdbuf();
  return bytes.str();
}

void SmallRun::write(const std::string& name, const std::string& bytes) const {
  std::ofstream target(file(name), std::ios::binary | std::ios::trunc);
  target << bytes;
  ASSERT_TRUE(target.flush()) << "cannot write " << file(name);
}

std::vector<nlohmann::json> SmallRun::metrics(const std::string& output,
                                              const std::string& type) const {
  std::vector<nlohmann::json> lines;
  std::istringstream text(read(output + "/metrics.jsonl"));
  for (std::string line; std::getline(text, line);) {
    const nlohmann::json parsed = nlohmann::json::parse(line, nullptr, false);
    EXPECT_TRUE(parsed.is_object()) << output << "/metrics.jsonl: " << line;
    if (parsed.is_object() && (type.empty() || parsed.value("type", "") == type))
      lines.push_back(parsed);
  }
  return lines;
}

std::int64_t SmallRun::last_step(const std::string& output) const {
  std::ifstream source(file(output + "/metrics.jsonl"));
  std::int64_t step = 0;
  for (std::string line; std::getline(source, line);) {
    const auto json = nlohmann::json::parse(line, nullptr, false);
    if (json.is_object() && json.value("type", "") == "step") step = json.value("step", 0);
  }
  return step;
}

void SmallRun::expect_same_bits(const std::string& checkpoint, const std::string& other) const {
  const auto tensors_of = [this](const std::string& folder) {
    std::set<std::string> names;
    for (const auto& entry : fs::recursive_directory_iterator(file(folder)))
      if (entry.path().extension() == ".safetensors")
        names.insert(fs::relative(entry.path(), file(folder)).string());
    return names;
  };
  const std::set<std::string> names = tensors_of(checkpoint);
  EXPECT_EQ(names, tensors_of(other));
  EXPECT_TRUE(names.contains("model.safetensors"));
  EXPECT_TRUE(names.contains("trainer/voter-0.safetensors"));
  for (const std::string& name : names)  // not EXPECT_EQ, which would print them
    EXPECT_TRUE(read(checkpoint + "/" + name) == read(other + "/" + name))
        << name << " of " << checkpoint << " and " << other << " differ";
}

void SmallRun::damage(const std::string& name) const {
  std::string bytes = read(name);
  ASSERT_FALSE(bytes.empty());
  bytes[bytes.size() / 2] ^= 0x10;
  write(name, bytes);
}

}  // namespace ballot
