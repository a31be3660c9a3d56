// JSON merge patch (RFC 7386).

const isObject = (value) => value !== null && typeof value === "object" && !Array.isArray(value);

/** What `target` becomes by `patch`; neither is changed. */
export function applyMergePatch(target, patch) {
  if (!isObject(patch)) return patch;
  const result = isObject(target) ? { ...target } : {};
  for (const [key, value] of Object.entries(patch)) {
    if (value === null) delete result[key];
    else result[key] = applyMergePatch(result[key], value);
  }
  return result;
}
