// The symbolic phase: everything about the KKT system that depends on the sparsity pattern alone.
//
//     K = [ P + dI    A'       ]      d: a small regularization;  W: diagonal, 0 for equalities, changes with every step
//         [ A        -(W + dI) ]
//
// K is symmetric quasi-definite: it has a factorization K = L S L', S = diag(+-1), in every elimination order, and the sign
// of every pivot is known beforehand: +1 for variables, -1 for rows. The order, the fronts, the places of all values in
// the factor and the positions of all updates are computed once per pattern, here.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

namespace cvxlayers {

// The pattern of a batch: n variables, m rows, of which the first `zero` are equalities. P: upper triangle, sorted by rows,
// then columns. A: CSR, sorted columns. P_index: where the values of the triangle are in a row of values of P, P_values long.
struct Pattern {
  int n = 0, m = 0, zero = 0, P_values = 0;
  bool weighted = false;  // every row has a weight W, which may be zero
  std::vector<int> P_row, P_col, P_index, A_ptr, A_col;
};

// A panel: `width` neighbouring columns of the factor, and the rows below that have entries in them. Values are stored
// row by row: the pivot block (width x width; one row of width pivots where it is diagonal), then the `below` rows.
struct Panel {
  int first, width, below;
  std::size_t offset;   // of its values in the factor
  int rows;             // offset in Plan::row of the rows below
};

// The rows of a front that fall into the columns of one later panel: rows [begin, end) of the front's outer rows.
struct Target {
  int panel, begin, end;
  int position;         // offset in Plan::position: where the outer rows from `begin` on are in that panel
};

// Columns with (nearly) the same rows, eliminated together: panels [begin, end), then updates of the targets.
struct Front {
  int begin, end, width, outer;
  int rows;             // offset in Plan::row of the outer rows
  bool diagonal;        // independent columns with equal rows: the pivot block is diagonal
  int targets_begin, targets_end;
};

struct Plan {
  Pattern pattern;
  int nodes = 0;                    // order of the matrix that is factorized

  // Nodes that are condensed into others before ordering:
  std::vector<int> bound_of;        // row -> variable, for inequality rows with one entry (bounds); else -1
  std::vector<int> node_of_row;     // -1 for bounds
  std::vector<int> node_of_var;     // -1 for condensed variables
  std::vector<int> row_of_var;      // for a variable with diagonal P that touches one row other than bounds: that row
  std::vector<int> entry_of_var;    // and the index of its entry in A; else -1
  std::vector<int> P_diagonal;      // index in P of the diagonal entry, or -1

  std::vector<int> place;           // node -> position in the elimination order
  std::vector<double> sign;         // by position
  std::vector<char> varies;         // by node: the pivot depends on W

  std::vector<Panel> panels;
  std::vector<Front> fronts;
  std::vector<Target> targets;
  std::vector<int> row, position;

  std::vector<std::int64_t> P_dest, A_dest;   // where values of P and A go; -1: condensed
  std::vector<std::int64_t> diagonal;         // by node
  std::vector<std::int64_t> zeros;            // entries of the factor that neither P, A nor the diagonal write

  // The constant prefix: fronts [0, prefix) do not depend on W. They are factorized once per problem.
  int prefix = 0, prefix_columns = 0;
  std::size_t prefix_values = 0, values = 0;
  double flops = 0, prefix_flops = 0, entries = 0;
  bool complementarity = false;     // what remains after the prefix is a dense linear complementarity problem

  std::vector<std::int64_t> suffix_diagonal;  // by position, from prefix_columns on
};

// The cheaper of two orders: a free one, and one that eliminates nodes depending on W last. Null if the system is larger
// than the engine's limits (MAX_NODES, MAX_VALUES; the caller has looked at the others).
std::unique_ptr<Plan> make_plan(const Pattern& pattern);

constexpr int MAX_SIZE = 1 << 20, MAX_ENTRIES = 1 << 22;  // of n + m, and of P and A: what a workspace has vectors of
constexpr int MAX_NODES = 1 << 14;                // the ordering keeps the graph as bits: 32 MB
constexpr std::size_t MAX_VALUES = std::size_t(1) << 21;  // of the factor, per problem: 128 MB for eight
constexpr int CHUNK = 32;                         // columns of a panel

}  // namespace cvxlayers
