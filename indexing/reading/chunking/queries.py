"""What tree-sitter looks for in each language.

@function, @class and @type are definitions, named by @name, of @of (Go's receivers); one in C finds its name in
its declarator. @scope is a namespace. @wrap is what a definition may be wrapped in. @lead is a comment or
attribute that goes with the definition below it. A function without a body is a part of what it stands in.
"""

__all__ = ["QUERIES"]

_JAVASCRIPT = """
(comment) @lead
(decorator) @lead
(export_statement) @wrap
(function_declaration name: (_) @name) @function
(generator_function_declaration name: (_) @name) @function
(method_definition name: (_) @name) @function
(class_declaration name: (_) @name) @class
(class name: (_) @name) @class
(lexical_declaration (variable_declarator
  name: (_) @name value: [(arrow_function) (function_expression)])) @function
(variable_declaration (variable_declarator
  name: (_) @name value: [(arrow_function) (function_expression)])) @function
(expression_statement (assignment_expression
  left: (_) @name right: [(arrow_function) (function_expression)])) @function
"""
_C = """
(comment) @lead
(function_definition body: (_)) @function
(enum_specifier name: (_) @name body: (_)) @type
(union_specifier name: (_) @name body: (_)) @type
(type_definition type: [
  (struct_specifier body: (_)) (enum_specifier body: (_)) (union_specifier body: (_))] declarator: (_) @name) @type
"""

QUERIES = {
    "python": """
(comment) @lead
(decorated_definition) @wrap
(function_definition name: (_) @name) @function
(class_definition name: (_) @name) @class
""",
    "javascript": _JAVASCRIPT
    + """
(field_definition property: (_) @name value: [(arrow_function) (function_expression)]) @function
""",
    "typescript": _JAVASCRIPT
    + """
(ambient_declaration) @wrap
(abstract_class_declaration name: (_) @name) @class
(interface_declaration name: (_) @name) @type
(type_alias_declaration name: (_) @name) @type
(enum_declaration name: (_) @name) @type
(internal_module name: (_) @name) @scope
(module name: (_) @name) @scope
(public_field_definition name: (_) @name value: [(arrow_function) (function_expression)]) @function
""",
    "java": """
(line_comment) @lead
(block_comment) @lead
(class_declaration name: (_) @name) @class
(interface_declaration name: (_) @name) @class
(enum_declaration name: (_) @name) @class
(record_declaration name: (_) @name) @class
(annotation_type_declaration name: (_) @name) @type
(method_declaration name: (_) @name body: (_)) @function
(constructor_declaration name: (_) @name) @function
(compact_constructor_declaration name: (_) @name) @function
""",
    "go": """
(comment) @lead
(function_declaration name: (_) @name) @function
(method_declaration receiver: (parameter_list (parameter_declaration type: [
  (pointer_type [(type_identifier) @of (generic_type type: (_) @of)])
  (type_identifier) @of
  (generic_type type: (_) @of)])) name: (_) @name) @function
(type_declaration (type_spec name: (_) @name)) @type
""",
    "rust": """
(line_comment) @lead
(block_comment) @lead
(attribute_item) @lead
(function_item name: (_) @name) @function
(macro_definition name: (_) @name) @function
(impl_item type: (_) @name) @class
(trait_item name: (_) @name) @class
(struct_item name: (_) @name) @type
(enum_item name: (_) @name) @type
(union_item name: (_) @name) @type
(mod_item name: (_) @name body: (_)) @scope
""",
    "c": _C
    + """
(struct_specifier name: (_) @name body: (_)) @type
""",
    "cpp": _C
    + """
(template_declaration) @wrap
(class_specifier name: (_) @name body: (_)) @class
(struct_specifier name: (_) @name body: (_)) @class
(namespace_definition name: (_)? @name) @scope
""",
    "csharp": """
(comment) @lead
(namespace_declaration name: (_) @name) @scope
(class_declaration name: (_) @name) @class
(struct_declaration name: (_) @name) @class
(interface_declaration name: (_) @name) @class
(record_declaration name: (_) @name) @class
(enum_declaration name: (_) @name) @type
(method_declaration name: (_) @name body: (_)) @function
(constructor_declaration name: (_) @name body: (_)) @function
(destructor_declaration name: (_) @name body: (_)) @function
(operator_declaration body: (_)) @function
(indexer_declaration accessors: (accessor_list (accessor_declaration body: (_)))) @function
(property_declaration name: (_) @name accessors: (accessor_list (accessor_declaration body: (_)))) @function
""",
    "ruby": """
(comment) @lead
(module name: (_) @name) @class
(class name: (_) @name) @class
(method name: (_) @name) @function
(singleton_method name: (_) @name) @function
""",
    "php": """
(comment) @lead
(namespace_definition name: (_) @name body: (_)) @scope
(class_declaration name: (_) @name) @class
(interface_declaration name: (_) @name) @class
(trait_declaration name: (_) @name) @class
(enum_declaration name: (_) @name) @class
(function_definition name: (_) @name) @function
(method_declaration name: (_) @name body: (_)) @function
""",
}
