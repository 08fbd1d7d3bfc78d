// Elements from text. Nothing here, nor anywhere on the page, reads a string as HTML.

/** The element of an id. */
export const byId = (id) => document.getElementById(id);

/** A new element. Properties that hold a function are listeners; null, undefined and false are left out. */
export function el(name, properties = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (typeof value === "function") element.addEventListener(key, value);
    else if (value !== null && value !== undefined && value !== false) element.setAttribute(key, value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== ""));
  return element;
}

const NUMBER = new Intl.NumberFormat("en");

/** 3,633 documents; 1 document. */
export const counted = (n, one) => `${NUMBER.format(n)} ${one}${n === 1 ? "" : "s"}`;
