// One build of the engine. Compiled several times, with -DBUILD=name -DLANES=count and the instruction set's flags.
#include "engine.h"

#include "complementarity.h"
#include "derivative.h"
#include "interior_point.h"
#include "polish.h"

#define TEXT_(x) #x
#define TEXT(x) TEXT_(x)

namespace cvxlayers {
namespace {

void* make(const Plan& plan) { return new Group(plan); }
void destroy(void* workspace) { delete static_cast<Group*>(workspace); }

void solve(void* workspace, const SolveTask& t, std::ptrdiff_t first, int count, bool loaded) {
  Group& group = *static_cast<Group*>(workspace);
  const std::ptrdiff_t n = group.K.n, m = group.K.m;
  if (!loaded) group.load_matrices(t.P.at(first), t.P.stride, t.A.at(first), t.A.stride, count);
  group.load_vectors(t.q.at(first), t.q.stride, t.b.at(first), t.b.stride, count);
  group.solve(t.max_iterations);
  group.store(t.x + first * n, t.y + first * m, t.s + first * m, t.status + first, t.iterations + first, count);
}

void linear(void* workspace, const LinearTask& t, std::ptrdiff_t first, int count, bool loaded) {
  Group& group = *static_cast<Group*>(workspace);
  const std::ptrdiff_t size = t.columns * (group.K.n + group.K.m);
  if (!loaded) group.load_matrices(t.P.at(first), t.P.stride, t.A.at(first), t.A.stride, count, true);
  const Rows& rows = group.K.plan.pattern.weighted ? t.weights : t.v;
  group.linear(rows.at(first), rows.stride, t.right + first * size, t.out + first * size, t.rank + first, t.columns, count);
}

}  // namespace

extern const Build BUILD;
const Build BUILD = {TEXT(BUILD), LANES, make, destroy, solve, linear};

}  // namespace cvxlayers
