// deploy/grafana/ballot.json as its queries.
#pragma once

#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <vector>

namespace ballot::test {

inline nlohmann::json read_dashboard() {
  std::ifstream file(BALLOT_SOURCE_FOLDER "/deploy/grafana/ballot.json");
  return nlohmann::json::parse(file);
}

struct DashboardQuery {
  std::string panel, legend, expression;
};

inline std::vector<DashboardQuery> dashboard_queries() {
  std::vector<DashboardQuery> queries;
  const nlohmann::json dashboard = read_dashboard();
  for (const auto& panel : dashboard["panels"]) {
    if (!panel.contains("targets")) continue;  // a row
    for (const auto& target : panel["targets"])
      queries.push_back({panel["title"], target["legendFormat"], target["expr"]});
  }
  return queries;
}

// The query of a panel whose legend ends so, with the dashboard's variables filled in.
inline std::string dashboard_query(const std::string& panel, const std::string& legend,
                                   const std::string& run, const std::string& interval) {
  for (DashboardQuery& query : dashboard_queries()) {
    if (query.panel != panel || !query.legend.ends_with(legend)) continue;
    std::string& text = query.expression;
    for (const auto& [variable, value] :
         std::map<std::string, std::string>{{"$__rate_interval", interval}, {"$run", run}})
      for (std::size_t at; (at = text.find(variable)) != std::string::npos;)
        text.replace(at, variable.size(), value);
    return text;
  }
  throw std::runtime_error("the dashboard has no panel \"" + panel + "\" with \"" + legend + "\"");
}

}  // namespace ballot::test
