// Where in the model a voter disagrees: figures by layer are those of plain sums, by any schedule,
// and an alarm names the layers that stand out.
#include "runtime/layer_agreement.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <random>

#include "collectives/transport/loopback_transport.h"
#include "runtime/metrics_names.h"
#include "tests/support/tiny_run.h"
#include "tests/support/trained.h"

namespace ballot {
namespace {

using Json = nlohmann::json;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

TEST(LayerAgreement, ALayerIsNamedByItsNumber) {
  EXPECT_EQ(layer_of("model.layers.3.mlp.up_proj.weight"), "model.layers.3");
  EXPECT_EQ(layer_of("model.layers.12.input_layernorm.weight"), "model.layers.12");
  EXPECT_EQ(layer_of("transformer.h.0.attn.c_attn.weight"), "transformer.h.0");
  EXPECT_EQ(layer_of("model.embed_tokens.weight"), "model.embed_tokens.weight");
  EXPECT_EQ(layer_of("lm_head"), "lm_head");
  EXPECT_EQ(layer_of("norm.2b.weight"), "norm.2b.weight");
  EXPECT_EQ(layer_of(""), "");
}

BallotLayout layout_of(const std::vector<std::string>& names) {
  std::vector<BallotSegment> segments;
  for (const std::string& name : names) {
    BallotSegment segment;
    segment.name = name;
    segment.rows = 2;
    segment.cols = segment.row_stride = 256;
    segment.arena_offset = static_cast<std::int64_t>(segments.size()) * 512;
    segments.push_back(segment);
  }
  return BallotLayout(std::move(segments));
}

TEST(LayerAgreement, IsTheSumOfWhatAllHaveCounted) {
  const BallotLayout layout =
      layout_of({"head", "layers.1.b", "layers.1.a", "layers.0.b", "layers.0.a", "table"});
  const std::vector<std::string> layers = {"table", "layers.0", "layers.1", "head"};
  for (const auto& [ranks, voters] : {std::pair(1, 1), {2, 2}, {3, 3}, {4, 2}, {6, 1}, {5, 5}}) {
    std::mt19937_64 random(static_cast<std::uint64_t>(ranks));
    std::vector<SegmentAgreement> counted;
    std::map<std::pair<std::string, std::size_t>, std::pair<std::int64_t, std::int64_t>> truth;
    std::int64_t agreed_in_all = 0, compared_in_all = 0;
    for (int r = 0; r < ranks; ++r) {
      counted.emplace_back(layout.segments().size(), static_cast<std::size_t>(voters));
      for (std::size_t s = 0; s < layout.segments().size(); ++s)
        for (std::size_t v = 0; v < static_cast<std::size_t>(voters); ++v) {
          const auto compared = static_cast<std::int64_t>(random() % 1000);
          const auto agreed =
              static_cast<std::int64_t>(random() % static_cast<std::uint64_t>(compared + 1));
          counted.back().add(s, v, agreed, compared);
          auto& [a, c] = truth[{layer_of(layout.segments()[s].name), v}];
          a += agreed, c += compared;
          agreed_in_all += agreed, compared_in_all += compared;
        }
    }
    run_loopback(ranks, [&, ranks = ranks, voters = voters](Transport& transport) {
      LayerAgreement agreement(layout, static_cast<std::size_t>(voters), transport);
      for (const std::int64_t times : {1, 2}) {
        SegmentAgreement mine(layout.segments().size(), static_cast<std::size_t>(voters));
        for (std::int64_t i = 0; i < times; ++i)
          for (std::size_t s = 0; s < mine.segments(); ++s)
            for (std::size_t v = 0; v < mine.voters(); ++v) {
              const SegmentAgreement& own = counted[static_cast<std::size_t>(transport.rank())];
              mine.add(s, v, own.agreed(s, v), own.compared(s, v));
            }
        const LayerTable table =
            agreement.gather(mine, 10 * times, Deadline::in(std::chrono::seconds(60)));
        EXPECT_EQ(table.layers, layers);
        EXPECT_EQ(table.steps, 10 * times);
        std::int64_t agreed = 0, compared = 0;
        for (std::size_t layer = 0; layer < layers.size(); ++layer)
          for (std::size_t v = 0; v < table.voters; ++v) {
            const auto& [a, c] = truth[{layers[layer], v}];
            const std::size_t place = layer * table.voters + v;
            ASSERT_EQ(table.agreed[place], a * times) << ranks << " ranks, " << layers[layer];
            ASSERT_EQ(table.compared[place], c * times);
            agreed += table.agreed[place], compared += table.compared[place];
          }
        EXPECT_EQ(agreed, agreed_in_all * times);
        EXPECT_EQ(compared, compared_in_all * times);
      }
    });
  }
}

// Shares by layer, then voter, of a million elements.
LayerTable table_of(const std::vector<std::vector<double>>& shares) {
  LayerTable table;
  table.voters = shares[0].size();
  table.steps = 50;
  for (const std::vector<double>& row : shares) {
    table.layers.push_back("layers." + std::to_string(table.layers.size()));
    for (const double share : row) {
      table.compared.push_back(std::isnan(share) ? 0 : 1'000'000);
      table.agreed.push_back(std::isnan(share) ? 0 : static_cast<std::int64_t>(share * 1e6));
    }
  }
  return table;
}

TEST(WorstLayers, AreThoseThatStandOut) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  // Voter 1 is bad in the third layer of four.
  const LayerTable one = table_of(
      {{.56, .56, .55, .56}, {.58, .57, .58, .58}, {.60, .43, .60, .61}, {.55, .55, .55, .55}});
  EXPECT_THAT(worst_layers(one, 1), ElementsAre(2));
  EXPECT_THAT(worst_layers(one, 0), IsEmpty());
  EXPECT_EQ(describe_worst(one, 1), "; worst in layers.2 (0.4300, the others 0.6000)");
  EXPECT_EQ(describe_worst(one, 0), "");
  // In two, the worse one first; never more than asked for.
  const LayerTable two =
      table_of({{.56, .50, .56}, {.58, .57, .58}, {.60, .43, .60}, {.55, .55, .55}});
  EXPECT_THAT(worst_layers(two, 1), ElementsAre(2, 0));
  EXPECT_THAT(worst_layers(two, 1, 1), ElementsAre(2));
  // Everywhere alike.
  EXPECT_THAT(worst_layers(table_of({{.56, .44, .56}, {.58, .43, .58}, {.55, .45, .55}}), 1),
              IsEmpty());
  // Within chance.
  EXPECT_THAT(worst_layers(table_of({{.56, .558, .56}, {.58, .58, .58}}), 1), IsEmpty());
  // Two voters have the same figures; one layer is no choice; a silent voter is compared nowhere.
  EXPECT_THAT(worst_layers(table_of({{.4, .4}, {.6, .6}}), 1), IsEmpty());
  EXPECT_THAT(worst_layers(table_of({{.56, .44, .56}}), 1), IsEmpty());
  EXPECT_THAT(worst_layers(table_of({{.56, nan, .56}, {.56, nan, .56}}), 1), IsEmpty());
}

TEST(LayerTable, AddsSteps) {
  LayerTable a = table_of({{.5, .6, .7}}), b = table_of({{.7, .6, .5}});
  a.add(b);
  EXPECT_EQ(a.steps, 100);
  for (std::size_t v = 0; v < 3; ++v) EXPECT_NEAR(a.share(0, v), 0.6, 1e-6);
  EXPECT_TRUE(std::isnan(table_of({{std::numeric_limits<double>::quiet_NaN()}}).share(0, 0)));
}

std::vector<Json> layer_lines(const TinyRun& tiny, const std::string& name, int workers,
                              const std::vector<std::string>& settings) {
  std::vector<std::string> all = {"train.steps=7", "audit.agreement_window=3",
                                  "journal.enabled=off", "data.validation="};
  all.insert(all.end(), settings.begin(), settings.end());
  train_on(workers, tiny.run(name, "", all));
  std::vector<Json> lines = metrics_of(tiny.path(name), "agreement");
  for (Json& line : lines) line.erase("time");  // when it was written
  return lines;
}

TEST(LayerMetrics, AreOfWholeWindowsAndTheSameByEverySchedule) {
  const TinyRun tiny;
  const std::vector<Json> expected = layer_lines(tiny, "sharded", 4, {"vote.schedule=sharded"});
  ASSERT_EQ(expected.size(), 3u);
  for (std::size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(expected[i]["step"], std::vector({3, 6, 7})[i]);
    EXPECT_EQ(expected[i]["steps"], i < 2 ? 3 : 1);
    EXPECT_THAT(expected[i]["layers"].get<std::vector<std::string>>(),
                ElementsAre("model.embed_tokens.weight", "model.layers.0", "model.layers.1",
                            "lm_head.weight"));
    ASSERT_EQ(expected[i]["agreement"].size(), 4u);
    for (const Json& row : expected[i]["agreement"]) {
      ASSERT_EQ(row.size(), 4u);
      for (const Json& share : row) {
        if (share.is_null()) continue;  // of a small tensor no word may be sampled that has a voter
        EXPECT_GE(share.get<double>(), 0);
        EXPECT_LE(share.get<double>(), 1);
      }
    }
  }
  for (const char* schedule : {"gathered", "lanes", "hierarchical"}) {
    std::vector<std::string> settings = {std::string("vote.schedule=") + schedule};
    if (std::string(schedule) == "hierarchical") settings.push_back("vote.node_size=2");
    const std::vector<Json> lines = layer_lines(tiny, schedule, 4, settings);
    ASSERT_EQ(lines.size(), 3u) << schedule;
    for (std::size_t i = 0; i < 3; ++i) EXPECT_EQ(lines[i], expected[i]) << schedule;
  }
  EXPECT_THAT(layer_lines(tiny, "alone", 1, {}), IsEmpty());
}

TEST(LayerMetrics, AreOfVotersWhereTheseHaveMembers) {
  const TinyRun tiny;
  const std::vector<Json> lines =
      layer_lines(tiny, "run", 4, {"vote.members=2", "vote.schedule=sharded"});
  ASSERT_EQ(lines.size(), 3u);
  for (const Json& row : lines[0]["agreement"]) EXPECT_EQ(row.size(), 2u);
}

// The gradients of one layer have the wrong sign.
class BadLayer : public ModelAround {
 public:
  BadLayer(std::unique_ptr<Model> model, std::string layer)
      : ModelAround(std::move(model)), layer_(std::move(layer)) {}
  Loss differentiate(std::span<const TokenBatch> batches, GradientSink& sink) override {
    struct Invert : GradientSink {
      void loss_known(double loss) override { next->loss_known(loss); }
      void ready(const Parameter& p, Stream& stream) override {
        if (layer_of(p.shape.name) == *layer)
          for (float *x = p.gradient.f32(), *end = x + p.extent(); x != end; ++x) *x = -*x;
        next->ready(p, stream);
      }
      GradientSink* next = nullptr;
      const std::string* layer = nullptr;
    } invert;
    invert.next = &sink;
    invert.layer = &layer_;
    return model_->differentiate(batches, invert);
  }

 private:
  std::string layer_;
};

TEST(LayerMetrics, AnAlarmNamesTheLayerThatIsBad) {
  TinyShape shape;
  shape.intermediate = 320;  // of much weight in the whole
  const TinyRun tiny(shape);
  const std::string bad = "model.layers.1";
  train_on(4,
           tiny.run("run", "[optimizer]\nrate = 0.003\n",
                    {"train.steps=60", "train.batch=4", "audit.agreement_window=25",
                     "journal.enabled=off"}),
           [&](int rank) {
             TrainingHooks hooks;
             if (rank == 2)
               hooks.wrap_model = [&](std::unique_ptr<Model> model, const ParameterArena&) {
                 return std::make_unique<BadLayer>(std::move(model), bad);
               };
             return hooks;
           });
  const std::vector<Json> alarms = metrics_of(tiny.path("run"), "alarm");
  ASSERT_FALSE(alarms.empty());
  EXPECT_EQ(alarms[0]["worker"], 2);
  EXPECT_THAT(alarms[0]["text"].get<std::string>(), HasSubstr("worst in " + bad + " ("));
  // And the line of the window shows it: below chance there, above it elsewhere.
  const std::vector<Json> lines = metrics_of(tiny.path("run"), "agreement");
  ASSERT_FALSE(lines.empty());
  for (std::size_t layer = 0; layer < lines[0]["layers"].size(); ++layer) {
    const Json& share = lines[0]["agreement"][layer][2];
    if (lines[0]["layers"][layer] == bad) {
      EXPECT_LT(share.get<double>(), 0.5);
    } else if (!share.is_null()) {
      EXPECT_GT(share.get<double>(), 0.5);
    }
  }
}

}  // namespace
}  // namespace ballot
