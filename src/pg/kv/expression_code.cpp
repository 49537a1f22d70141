// See expression_code.h. All frames hold trivial locals only.

#include "pg/kv/expression_code.h"

#include "pg/kv/trust.h"

namespace vkv::kv {

namespace {

struct Function {
    Oid schema;
    bool immutable, plain;  // plain: of arguments and a result of known types
};

bool is_plain(Oid type) { return type == ANYARRAYOID || get_typtype(type) != TYPTYPE_PSEUDO; }

bool read_function(Oid oid, Function *function)
{
    HeapTuple row = SearchSysCache1(PROCOID, ObjectIdGetDatum(oid));
    if (!HeapTupleIsValid(row)) return false;
    const auto form = reinterpret_cast<Form_pg_proc>(GETSTRUCT(row));
    *function = {form->pronamespace, form->provolatile == PROVOLATILE_IMMUTABLE, is_plain(form->prorettype)};
    for (int i = 0; i < form->pronargs; ++i)
        if (!is_plain(form->proargtypes.values[i])) function->plain = false;
    ReleaseSysCache(row);
    return true;
}

// Functions that compute on their arguments, and a few that look at the session; none that run what they are given. Whom they
// belong to does not matter here: whoever writes the expression chooses the arguments.
bool may_run_code(Oid oid, void *)
{
    constexpr Oid kHarmless[] = {F_NOW,
                                 F_CLOCK_TIMESTAMP,
                                 F_STATEMENT_TIMESTAMP,
                                 F_NEXTVAL,
                                 F_GEN_RANDOM_UUID,
                                 F_PG_TRIGGER_DEPTH,
                                 F_CURRENT_SETTING_TEXT,
                                 F_CURRENT_SETTING_TEXT_BOOL};
    for (Oid harmless : kHarmless)
        if (oid == harmless) return false;
    Function function;
    if (!read_function(oid, &function)) return true;
    if (function.schema == PG_CATALOG_NAMESPACE) return !function.immutable || !function.plain;
    if (!is_ours(getExtensionOfObject(ProcedureRelationId, oid))) return true;
    return !function.immutable && strcmp(get_func_name(oid), "new_id") != 0;
}

// Whoever makes an operator names its function and its negator, which the planner puts in its place: of those over built-in
// functions, too.
bool is_strange_operator(Oid oid)
{
    if (!OidIsValid(oid)) return false;
    HeapTuple row = SearchSysCache1(OPEROID, ObjectIdGetDatum(oid));
    if (!HeapTupleIsValid(row)) return true;
    const Oid schema = reinterpret_cast<Form_pg_operator>(GETSTRUCT(row))->oprnamespace;
    ReleaseSysCache(row);
    return schema != PG_CATALOG_NAMESPACE && !is_ours(getExtensionOfObject(OperatorRelationId, oid));
}

bool has_strange_operator(const Node *node)
{
    switch (nodeTag(node)) {
        case T_OpExpr:
        case T_DistinctExpr:
        case T_NullIfExpr:
            return is_strange_operator(reinterpret_cast<const OpExpr *>(node)->opno);
        case T_ScalarArrayOpExpr:
            return is_strange_operator(reinterpret_cast<const ScalarArrayOpExpr *>(node)->opno);
        case T_SortGroupClause: {
            const auto *clause = reinterpret_cast<const SortGroupClause *>(node);
            return is_strange_operator(clause->eqop) || is_strange_operator(clause->sortop);
        }
        default:
            return false;
    }
}

// nextval and current_setting do what the caller may do: of sequences of the owner and settings of applications only.
bool borrows_rights(const FuncExpr *call, Oid owner)
{
    const bool is_sequence = call->funcid == F_NEXTVAL;
    if (!is_sequence && call->funcid != F_CURRENT_SETTING_TEXT && call->funcid != F_CURRENT_SETTING_TEXT_BOOL) return false;
    const Node *first = static_cast<const Node *>(linitial(call->args));
    if (nodeTag(first) != T_Const) return true;
    const auto constant = reinterpret_cast<const Const *>(first);
    if (constant->constisnull) return false;
    if (is_sequence) return !has_privs_of_role(owner, owner_of(DatumGetObjectId(constant->constvalue)));
    return !strchr(TextDatumGetCString(constant->constvalue), '.');
}

struct Reach {
    Oid owner, readable;
};

// A table that the expression looks into, and nothing but such a table.
bool is_other_table(const RangeTblEntry *entry, Oid readable)
{
    return entry->rtekind != RTE_RELATION || entry->relid != readable || entry->relkind != RELKIND_RELATION;
}

// Conversions by input and output functions, of domains, rows and arrays may run checks of domains.
bool find_code(Node *node, void *context)
{
    if (!node) return false;
    const Reach *reach = static_cast<Reach *>(context);
    switch (nodeTag(node)) {
        case T_Const:
            return !is_harmless_type(castNode(Const, node)->consttype);
        case T_Var:
        case T_OpExpr:
        case T_DistinctExpr:
        case T_NullIfExpr:
        case T_ScalarArrayOpExpr:
        case T_BoolExpr:
        case T_NullTest:
        case T_BooleanTest:
        case T_RelabelType:
        case T_CaseExpr:
        case T_CaseWhen:
        case T_CaseTestExpr:
        case T_CoalesceExpr:
        case T_MinMaxExpr:
        case T_ArrayExpr:
        case T_SubscriptingRef:
        case T_SQLValueFunction:
        case T_List:
            break;
        case T_FuncExpr:
            if (borrows_rights(castNode(FuncExpr, node), reach->owner)) return true;
            break;
        case T_SubLink:
        case T_SortGroupClause:
        case T_TargetEntry:
        case T_FromExpr:
        case T_RangeTblRef:
            if (!OidIsValid(reach->readable)) return true;
            break;
        case T_RangeTblEntry:
            return is_other_table(castNode(RangeTblEntry, node), reach->readable);
        case T_Query:
            return castNode(Query, node)->commandType != CMD_SELECT ||
                   compat::walk_query(castNode(Query, node), find_code, context);
        default:
            return true;
    }
    return has_strange_operator(node) || check_functions_in_node(node, may_run_code, context) ||
           compat::walk_expression(node, find_code, context);
}

}  // namespace

bool has_code(Node *expression, Oid owner, Oid readable)
{
    Reach reach{owner, readable};
    return find_code(expression, &reach);
}

bool has_code(const char *stored, Oid owner)
{
    return stored && has_code(static_cast<Node *>(stringToNode(const_cast<char *>(stored))), owner);
}

bool is_harmless_type(Oid type)
{
    if (type == UNKNOWNOID) return true;  // of constants
    const Oid element = get_element_type(type);
    const char kind = get_typtype(OidIsValid(element) ? element : type);
    return kind == TYPTYPE_BASE || ((kind == TYPTYPE_RANGE || kind == TYPTYPE_MULTIRANGE) && type < FirstGenbkiObjectId);
}

}  // namespace vkv::kv
