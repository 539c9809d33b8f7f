// Ordering, fronts and the places of all values. Sources: minimum degree and relaxed supernodes as in Davis, "Direct methods
// for sparse linear systems" (2006); quasi-definite matrices: Vanderbei (1995).
#include "plan.h"

#include <algorithm>
#include <map>
#include <set>
#include <stdexcept>
#include <utility>

namespace cvxlayers {
namespace {

// A front while it is being built: its columns, in elimination order, and the later columns that it updates.
struct Draft {
  std::vector<int> columns, rows, children;
  bool diagonal = false, merged = false;
};

class Builder {
 public:
  Builder(const Pattern& pattern, bool varying_last) : varying_last_(varying_last) { plan_.pattern = pattern; }

  std::unique_ptr<Plan> build() {
    condense();
    if (plan_.nodes > MAX_NODES) return nullptr;
    classify();
    if (!order()) return nullptr;
    draft_fronts();
    group_leaves();
    amalgamate();
    number_fronts();
    if (plan_.values > MAX_VALUES) return nullptr;
    find_targets();
    place_values();
    return std::make_unique<Plan>(std::move(plan_));
  }

 private:
  Plan plan_;
  bool varying_last_;
  std::vector<int> sign_;                 // by node
  std::vector<char> equality_, has_condensed_;
  std::vector<int> order_;                // position -> node
  std::vector<std::vector<int>> later_;   // by node: its neighbours when it is eliminated
  std::vector<Draft> drafts_;
  std::vector<int> panel_of_;             // position in the final order -> panel

  // Nodes of degree one leave before ordering. An inequality with one entry a at variable j adds a^2 / (W + d) to K_jj; a
  // variable with diagonal P that touches one row i adds -a^2 / (P_jj + d) to K_ii (CVXPY writes |Lx|^2 as |y|^2, y = Lx).
  void condense() {
    const Pattern& p = plan_.pattern;
    std::vector<char> coupled(p.n, 0);
    std::vector<int> rows(p.n, 0), entry(p.n, -1), last_row(p.n, -1);
    plan_.P_diagonal.assign(p.n, -1);
    plan_.bound_of.assign(p.m, -1);
    plan_.node_of_row.assign(p.m, -1);
    plan_.node_of_var.assign(p.n, -1);
    plan_.row_of_var.assign(p.n, -1);
    plan_.entry_of_var.assign(p.n, -1);
    for (std::size_t k = 0; k < p.P_row.size(); k++) {
      if (p.P_row[k] == p.P_col[k]) plan_.P_diagonal[p.P_row[k]] = int(k);
      else coupled[p.P_row[k]] = coupled[p.P_col[k]] = 1;
    }
    for (int i = 0; i < p.m; i++) {
      if (i >= p.zero && p.A_ptr[i + 1] - p.A_ptr[i] == 1) {
        plan_.bound_of[i] = p.A_col[p.A_ptr[i]];
        continue;
      }
      for (int k = p.A_ptr[i]; k < p.A_ptr[i + 1]; k++) {
        int j = p.A_col[k];
        rows[j]++, entry[j] = k, last_row[j] = i;
      }
    }
    for (int j = 0; j < p.n; j++) {
      if (!coupled[j] && plan_.P_diagonal[j] >= 0 && rows[j] == 1) plan_.row_of_var[j] = last_row[j], plan_.entry_of_var[j] = entry[j];
      else plan_.node_of_var[j] = plan_.nodes++;
    }
    for (int i = 0; i < p.m; i++)
      if (plan_.bound_of[i] < 0) plan_.node_of_row[i] = plan_.nodes++;
  }

  void classify() {
    const Pattern& p = plan_.pattern;
    int N = plan_.nodes;
    sign_.assign(N, 1), equality_.assign(N, 0), has_condensed_.assign(N, 0), plan_.varies.assign(N, varying_last_ ? 0 : 1);
    for (int i = 0; i < p.m; i++)
      if (int u = plan_.node_of_row[i]; u >= 0) sign_[u] = -1, equality_[u] = i < p.zero || p.weighted;
    for (int j = 0; j < p.n; j++)
      if (plan_.row_of_var[j] >= 0) has_condensed_[plan_.node_of_row[plan_.row_of_var[j]]] = 1;
    for (int i = p.zero; i < p.m; i++) {
      int j = plan_.bound_of[i];
      int u = j < 0 ? plan_.node_of_row[i] : plan_.node_of_var[j] >= 0 ? plan_.node_of_var[j] : plan_.node_of_row[plan_.row_of_var[j]];
      plan_.varies[u] = 1;
    }
  }

  // Exact minimum degree on a graph of bits. An equality row has the pivot -d until one of its variables (or a condensed
  // one) is eliminated: it is not eligible before, and neither are varying nodes where they come last.
  // False where the factor would be too large.
  bool order() {
    const Pattern& p = plan_.pattern;
    const int N = plan_.nodes, words = (N + 63) / 64;
    std::vector<std::uint64_t> graph(std::size_t(N) * words, 0);
    auto neighbours = [&](int v) { return graph.data() + std::size_t(v) * words; };
    auto clear = [&](int u, int v) { neighbours(u)[v >> 6] &= ~(std::uint64_t(1) << (v & 63)); };
    auto connect = [&](int u, int v) {
      if (u < 0 || v < 0 || u == v) return;
      neighbours(u)[v >> 6] |= std::uint64_t(1) << (v & 63), neighbours(v)[u >> 6] |= std::uint64_t(1) << (u & 63);
    };
    for (std::size_t k = 0; k < p.P_row.size(); k++) connect(plan_.node_of_var[p.P_row[k]], plan_.node_of_var[p.P_col[k]]);
    for (int i = 0; i < p.m; i++)
      for (int k = p.A_ptr[i]; k < p.A_ptr[i + 1]; k++) connect(plan_.node_of_row[i], plan_.node_of_var[p.A_col[k]]);
    auto degree = [&](int v) {
      long count = 0;
      for (int w = 0; w < words; w++) count += __builtin_popcountll(neighbours(v)[w]);
      return count;
    };
    std::vector<long> degrees(N);
    std::vector<char> eligible(N, 1);
    for (int v = 0; v < N; v++) degrees[v] = degree(v), eligible[v] = !equality_[v] || has_condensed_[v];
    later_.resize(N);
    auto cost = [&](int v) {
      long c = degrees[v] + (eligible[v] ? 0 : 1000000L) + (varying_last_ && plan_.varies[v] ? 10000000L : 0);
      return 4 * c + (sign_[v] > 0 ? 1 : equality_[v] ? 2 : 0);  // ties: inequality rows first
    };
    std::set<std::pair<long, int>> queue;
    for (int v = 0; v < N; v++) queue.emplace(cost(v), v);
    std::size_t values = 0;
    while (!queue.empty()) {
      const int best = queue.begin()->second;
      queue.erase(queue.begin());
      values += std::size_t(degrees[best]) + 1;
      if (values > MAX_VALUES) return false;
      const std::uint64_t* mine = neighbours(best);
      for (int w = 0; w < words; w++)
        for (std::uint64_t bits = mine[w]; bits; bits &= bits - 1) later_[best].push_back(64 * w + __builtin_ctzll(bits));
      for (int u : later_[best]) {
        queue.erase({cost(u), u});
        for (int w = 0; w < words; w++) neighbours(u)[w] |= mine[w];
        clear(u, u), clear(u, best);
        degrees[u] = degree(u);
        if (sign_[best] > 0 || !equality_[best]) eligible[u] = 1;
        queue.emplace(cost(u), u);
      }
      order_.push_back(best);
    }
    return true;
  }

  void draft_fronts() {
    const int N = plan_.nodes;
    std::vector<int> position(N);
    for (int k = 0; k < N; k++) position[order_[k]] = k;
    drafts_.resize(N);
    for (int k = 0; k < N; k++) {
      Draft& front = drafts_[k];
      front.columns = {k};
      for (int u : later_[order_[k]]) front.rows.push_back(position[u]);
      std::sort(front.rows.begin(), front.rows.end());
    }
    for (int k = 0; k < N; k++)
      if (!drafts_[k].rows.empty()) drafts_[drafts_[k].rows[0]].children.push_back(k);
  }

  // Columns without children that have equal rows and signs become one front with a diagonal pivot block: the Schur
  // complement of many inequality rows, G'WG, is then one product of matrices.
  void group_leaves() {
    for (Draft& parent : drafts_) {
      std::map<std::pair<int, std::vector<int>>, int> groups;  // a sign, for varying nodes times two; and the rows
      std::vector<int> kept;
      for (int c : parent.children) {
        Draft& child = drafts_[c];
        if (!child.children.empty()) {
          kept.push_back(c);
          continue;
        }
        auto [group, added] = groups.try_emplace({sign_[order_[c]] * (1 + plan_.varies[order_[c]]), child.rows}, c);
        if (added) {
          kept.push_back(c);
          continue;
        }
        drafts_[group->second].columns.push_back(c);
        drafts_[group->second].diagonal = true;
        child.merged = true;
      }
      parent.children = std::move(kept);
    }
  }

  // The time of a front, in operations: its factorization, the sweeps over its entries when systems are solved, the entries
  // of its ancestors that it reads and writes, and what is there to do for any front.
  static double work(double width, double rows) {
    const double entries = width * (width + 1) / 2 + width * rows, updated = rows * (rows + 1) / 2;
    return width * rows * (rows + 1) + width * width * rows + width * width * width / 3 + 12 * entries + 6 * updated + 100;
  }

  // Merge children into their parents where that saves work: explicit zeros are paid for by fewer updates, each of which
  // moves all of its target through the caches. Narrow fronts with many rows are the dearest.
  void amalgamate() {
    for (int k = 0; k < plan_.nodes; k++) {
      Draft& parent = drafts_[k];
      if (parent.merged || parent.diagonal) continue;
      for (;;) {
        int best = -1;
        double best_gain = 0;
        for (int c : parent.children) {
          const Draft& child = drafts_[c];
          if (child.diagonal || plan_.varies[order_[c]] != plan_.varies[order_[k]]) continue;
          const double wc = double(child.columns.size()), wp = double(parent.columns.size());
          const double rc = double(child.rows.size()), rp = double(parent.rows.size());
          const double gain = work(wc, rc) + work(wp, rp) - work(wc + wp, rp);
          if (gain > best_gain) best = c, best_gain = gain;
        }
        if (best < 0) break;
        Draft& child = drafts_[best];
        parent.columns.insert(parent.columns.end(), child.columns.begin(), child.columns.end());
        parent.children.erase(std::find(parent.children.begin(), parent.children.end(), best));
        parent.children.insert(parent.children.end(), child.children.begin(), child.children.end());
        child.merged = true;
      }
    }
  }

  // Fronts in postorder, constant ones first, cut into panels. Inside of a front the order of elimination stays: sorted
  // by sign, pivots of rows of P that are zero would come first, and accuracy with them.
  void number_fronts() {
    const int N = plan_.nodes;
    std::vector<int> post, stack;
    std::vector<char> seen(N, 0);
    for (int k = 0; k < N; k++) {
      if (drafts_[k].merged || !drafts_[k].rows.empty()) continue;
      stack.push_back(k);
      while (!stack.empty()) {
        int top = stack.back();
        if (seen[top]) {
          stack.pop_back(), post.push_back(top);
          continue;
        }
        seen[top] = 1;
        const auto& children = drafts_[top].children;
        stack.insert(stack.end(), children.rbegin(), children.rend());
      }
    }
    auto varies = [&](int k) { return plan_.varies[order_[k]]; };
    std::stable_sort(post.begin(), post.end(), [&](int a, int b) { return varies(a) < varies(b); });
    std::vector<int> final_place(N, -1);
    int count = 0;
    for (int k : post) {
      std::sort(drafts_[k].columns.begin(), drafts_[k].columns.end());
      for (int c : drafts_[k].columns) final_place[c] = count++;
    }
    if (count != N) throw std::logic_error("plan: the elimination tree lost columns");
    plan_.place.resize(N), plan_.sign.resize(N), panel_of_.resize(N);
    for (int k = 0; k < N; k++) plan_.place[order_[k]] = final_place[k], plan_.sign[final_place[k]] = sign_[order_[k]];
    bool in_prefix = true;
    for (int k : post) {
      if (in_prefix && varies(k)) in_prefix = false, close_prefix();
      std::vector<int> outer;
      for (int r : drafts_[k].rows) outer.push_back(final_place[r]);
      std::sort(outer.begin(), outer.end());
      add_front(drafts_[k], final_place[drafts_[k].columns[0]], outer);
    }
    if (in_prefix) close_prefix();
  }

  void close_prefix() {
    plan_.prefix = int(plan_.fronts.size());
    plan_.prefix_values = plan_.values, plan_.prefix_flops = plan_.flops;
    plan_.prefix_columns = plan_.panels.empty() ? 0 : plan_.panels.back().first + plan_.panels.back().width;
  }

  void add_front(const Draft& draft, int first, const std::vector<int>& outer) {
    Front front{};
    front.width = int(draft.columns.size()), front.outer = int(outer.size()), front.diagonal = draft.diagonal;
    front.begin = int(plan_.panels.size());
    int chunks = (front.width + CHUNK - 1) / CHUNK, chunk = ((front.width + chunks - 1) / chunks + 3) / 4 * 4;
    for (int a = 0; a < front.width; a += chunk) {
      int b = std::min(front.width, a + chunk);
      Panel panel{first + a, b - a, 0, plan_.values, int(plan_.row.size())};
      if (!front.diagonal)
        for (int c = b; c < front.width; c++) plan_.row.push_back(first + c);
      front.rows = int(plan_.row.size());
      plan_.row.insert(plan_.row.end(), outer.begin(), outer.end());
      panel.below = int(plan_.row.size()) - panel.rows;
      double w = panel.width, r = panel.below;
      plan_.values += std::size_t(panel.width) * ((front.diagonal ? 1 : panel.width) + panel.below);
      plan_.flops += w * r * (r + 1) + (front.diagonal ? w * r : w * w * r + w * w * w / 3);
      plan_.entries += (front.diagonal ? w : w * (w + 1) / 2) + w * r;
      for (int c = panel.first; c < panel.first + panel.width; c++) panel_of_[c] = int(plan_.panels.size());
      plan_.panels.push_back(panel);
    }
    front.end = int(plan_.panels.size());
    plan_.fronts.push_back(front);
  }

  // The position of row (a place in the order) in a panel.
  int position_in(int panel, int row) const {
    const Panel& p = plan_.panels[panel];
    if (row < p.first + p.width) return row - p.first;
    auto begin = plan_.row.begin() + p.rows;
    return int(std::lower_bound(begin, begin + p.below, row) - begin) + p.width;
  }

  void find_targets() {
    for (Front& front : plan_.fronts) {
      front.targets_begin = int(plan_.targets.size());
      const int* outer = plan_.row.data() + front.rows;
      for (int a = 0; a < front.outer;) {
        int panel = panel_of_[outer[a]], b = a;
        while (b < front.outer && panel_of_[outer[b]] == panel) b++;
        plan_.targets.push_back({panel, a, b, int(plan_.position.size())});
        for (int i = a; i < front.outer; i++) plan_.position.push_back(position_in(panel, outer[i]));
        a = b;
      }
      front.targets_end = int(plan_.targets.size());
    }
  }

  std::int64_t destination(int u, int v) const {
    int row = plan_.place[u], column = plan_.place[v];
    if (row < column) std::swap(row, column);
    const int k = panel_of_[column];
    const Panel& p = plan_.panels[k];
    int local = column - p.first;
    if (is_diagonal(k)) {
      int position = row == column ? 0 : position_in(k, row) - p.width + 1;
      return std::int64_t(p.offset) + std::int64_t(position) * p.width + local;
    }
    return std::int64_t(p.offset) + std::int64_t(position_in(k, row)) * p.width + local;
  }

  bool is_diagonal(int panel) const {
    auto front = std::upper_bound(plan_.fronts.begin(), plan_.fronts.end(), panel,
                                  [](int k, const Front& f) { return k < f.end; });
    return front->diagonal;
  }

  void place_values() {
    const Pattern& p = plan_.pattern;
    for (std::size_t k = 0; k < p.P_row.size(); k++) {
      int u = plan_.node_of_var[p.P_row[k]], v = plan_.node_of_var[p.P_col[k]];
      plan_.P_dest.push_back(u < 0 || v < 0 ? -1 : destination(u, v));
    }
    for (int i = 0; i < p.m; i++)
      for (int k = p.A_ptr[i]; k < p.A_ptr[i + 1]; k++) {
        int u = plan_.node_of_row[i], v = plan_.node_of_var[p.A_col[k]];
        plan_.A_dest.push_back(u < 0 || v < 0 ? -1 : destination(u, v));
      }
    std::vector<int> node_at(plan_.nodes);
    for (int u = 0; u < plan_.nodes; u++) node_at[plan_.place[u]] = u, plan_.diagonal.push_back(destination(u, u));
    for (int c = plan_.prefix_columns; c < plan_.nodes; c++) plan_.suffix_diagonal.push_back(plan_.diagonal[node_at[c]]);
    std::vector<char> written(plan_.values, 0);
    for (const auto* list : {&plan_.P_dest, &plan_.A_dest, &plan_.diagonal})
      for (std::int64_t d : *list)
        if (d >= 0) written[d] = 1;
    for (std::size_t d = 0; d < plan_.values; d++)
      if (!written[d]) plan_.zeros.push_back(std::int64_t(d));
    plan_.complementarity = varying_last_ && p.m > p.zero;
    for (int i = p.zero; i < p.m; i++)
      if (plan_.bound_of[i] >= 0) plan_.complementarity = false;
  }
};

// About the time of ten interior-point steps: a factorization and three solves each.
double cost(const Plan& p) {
  return 10 * (p.flops - p.prefix_flops + 12 * p.entries) + p.prefix_flops;
}

}  // namespace

std::unique_ptr<Plan> make_plan(const Pattern& pattern) {
  auto free = Builder(pattern, false).build();
  auto last = Builder(pattern, true).build();
  if (!free || !last) return free ? std::move(free) : std::move(last);
  return cost(*last) < cost(*free) ? std::move(last) : std::move(free);
}

}  // namespace cvxlayers
