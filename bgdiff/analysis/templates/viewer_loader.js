// Runs the modules that webpack pushed onto its global list, and finds NGL among them.
var bgdiffNGL = (function () {
  "use strict";
  var modules = {}, loaded = {};
  (self.webpackChunknglview_js_widgets || []).forEach(function (chunk) {
    Object.keys(chunk[1]).forEach(function (id) { modules[id] = chunk[1][id]; });
  });
  function require(id) {
    if (!loaded[id]) {
      loaded[id] = { id: id, exports: {} };
      modules[id].call(loaded[id].exports, loaded[id], loaded[id].exports, require);
    }
    return loaded[id].exports;
  }
  require.d = function (exports, getters) {
    Object.keys(getters).forEach(function (name) {
      Object.defineProperty(exports, name, { enumerable: true, get: getters[name] });
    });
  };
  require.r = function (exports) { Object.defineProperty(exports, "__esModule", { value: true }); };
  require.nmd = function (module) { return module; };
  require.n = function (module) {
    var get = module && module.__esModule ? function () { return module.default; } : function () { return module; };
    require.d(get, { a: get });
    return get;
  };
  require.o = function (object, name) { return Object.prototype.hasOwnProperty.call(object, name); };
  require.g = self;
  return function () {
    var ids = Object.keys(modules).sort(function (a, b) { // the largest is NGL
      return String(modules[b]).length - String(modules[a]).length;
    });
    var exports = ids.length ? require(ids[0]) : {};
    if (!exports.Stage) { throw new Error("the viewer's JavaScript holds no NGL"); }
    return exports;
  };
})();
