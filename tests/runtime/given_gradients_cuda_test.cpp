// Runs on a GPU and on the CPU that are given the same gradients: what follows is the same to the
// bit, the means and verdicts of every step, every voter's momentum, and the parameters.
#include <gtest/gtest.h>

#include <map>

#include "core/hash.h"
#include "core/host_bytes.h"
#include "runtime/journal/journal.h"
#include "tests/support/tiny_run.h"
#include "tests/support/trained.h"

namespace ballot {
namespace {

constexpr int kWorkers = 3;
constexpr std::int64_t kSteps = 4;

// Of every size, with zeros of both signs and rows without any other number; of this rank and step.
void fill_given(const Parameter& p, std::uint64_t rank, std::uint64_t step) {
  const HostBytes host(p.gradient, HostBytes::Holds::zeros);
  auto* to = reinterpret_cast<float*>(host.data());
  for (std::int64_t row = 0; row < p.shape.rows; ++row)
    for (std::int64_t col = 0; col < p.shape.cols; ++col) {
      const std::uint64_t bits = hash64(rank, step, static_cast<std::uint64_t>(p.index),
                                        static_cast<std::uint64_t>(row * p.shape.cols + col));
      const float size = static_cast<float>(bits >> 40) * 0x1p-24f * (row % 3 == 0 ? 1.0f : 1e-4f);
      const bool zero = bits % 16 == 0 || row % 7 == 3;
      to[row * p.row_stride + col] = (bits & 32) != 0 ? -size * !zero : size * !zero;
    }
  host.put_back();
}

// Its gradients are the given ones.
class Given final : public ModelAround {
 public:
  Given(std::unique_ptr<Model> model, std::uint64_t rank)
      : ModelAround(std::move(model)), rank_(rank) {}

  Loss differentiate(std::span<const TokenBatch> batches, GradientSink& sink) override {
    struct Exchange final : GradientSink {
      Exchange(GradientSink& sink, std::uint64_t rank, std::uint64_t step)
          : sink_(sink), rank_(rank), step_(step) {}
      void loss_known(double mean_loss) override { sink_.loss_known(mean_loss); }
      void ready(const Parameter& parameter, Stream& stream) override {
        stream.synchronize();
        fill_given(parameter, rank_, step_);
        sink_.ready(parameter, stream);
      }
      GradientSink& sink_;
      std::uint64_t rank_, step_;
    } exchange(sink, rank_, step_++);
    return model_->differentiate(batches, exchange);
  }

 private:
  std::uint64_t rank_, step_ = 0;
};

struct Followed {
  std::vector<Record> journal;
  std::map<std::string, std::string> files;  // of the last checkpoint
};

class GivenGradientsOnCuda : public testing::TestWithParam<std::vector<std::string>> {
 protected:
  Followed follow(const std::string& device) const {
    std::vector<std::string> settings = GetParam();
    settings.insert(settings.end(),
                    {"train.device=\"" + device + "\"", "train.compute=\"f32\"",
                     "train.steps=" + std::to_string(kSteps), "train.validation_windows=1"});
    const RunConfig config = tiny_.run(device, "", settings);
    const auto results = train_on(kWorkers, config, [](int rank) {
      TrainingHooks hooks;
      hooks.wrap_model = [rank](std::unique_ptr<Model> model, const ParameterArena&) {
        return std::make_unique<Given>(std::move(model), static_cast<std::uint64_t>(rank));
      };
      return hooks;
    });
    Followed followed;
    // One disk keeps one copy of each chunk's bits: worker n its share of them.
    for (int worker = 0; worker < kWorkers; ++worker) {
      const JournalReader journal(
          system_disk(), config.output_folder + "/journal/worker-" + std::to_string(worker));
      for (std::int64_t step = 1; step <= kSteps; ++step)
        followed.journal.push_back(journal.read(step));
    }
    followed.files["parameters"] = read_file(results[0].checkpoint + "/model.safetensors");
    for (const char* file : {"voter-0", "voter-1", "voter-2", "replicated"})
      followed.files[file] = read_file(results[0].checkpoint + "/trainer/" + file + ".safetensors");
    return followed;
  }

  TinyRun tiny_{{.hidden = 32, .layers = 1, .heads = 2, .key_value_heads = 1, .intermediate = 64}};
};

TEST_P(GivenGradientsOnCuda, AreFollowedToTheBitsOfTheCpu) {
  const Followed there = follow("cuda"), here = follow("cpu");
  ASSERT_EQ(there.journal.size(), static_cast<std::size_t>(kWorkers * kSteps));
  ASSERT_EQ(here.journal.size(), there.journal.size());
  std::size_t bits = 0, values = 0;
  for (std::size_t i = 0; i < here.journal.size(); ++i) {
    EXPECT_EQ(there.journal[i].chunks, here.journal[i].chunks) << i;
    EXPECT_EQ(there.journal[i].means, here.journal[i].means) << i;
    EXPECT_EQ(there.journal[i].factors, here.journal[i].factors) << i;
    for (const ChunkVerdictRecord& chunk : here.journal[i].chunks) bits += chunk.bits.size();
    for (const MeanRecord& mean : here.journal[i].means) values += mean.values.size();
  }
  EXPECT_GT(bits + values, 0u);
  for (const auto& [name, bytes] : here.files) EXPECT_TRUE(there.files.at(name) == bytes) << name;
}

INSTANTIATE_TEST_SUITE_P(
    Rules, GivenGradientsOnCuda,
    testing::Values(
        std::vector<std::string>{"optimizer.preset=\"lion\""},
        std::vector<std::string>{"group.hidden.newton_schulz=false",
                                 "group.hidden.momentum_type=\"bf16\"", "vote.ties=\"hold\""},
        std::vector<std::string>{"optimizer.preset=\"signum\"",
                                 "group.embedding.abstain_below=0.1"},
        std::vector<std::string>{"optimizer.preset=\"adamw\""},
        std::vector<std::string>{"optimizer.preset=\"lion\"", "optimizer.reduce=\"mean-fp32\""}));

}  // namespace
}  // namespace ballot
