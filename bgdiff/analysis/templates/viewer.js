// The report's structure view: conformations one by one or on top of each other, coloured by what they are.
(function () {
  "use strict";
  var view = document.getElementById("viewer");
  var data = JSON.parse(document.getElementById("viewer-data").textContent);
  var nAtoms = data.symbols.length, nFrames = data.frames.length;
  var part = function (name) { return view.querySelector("[data-part=" + name + "]"); };
  var state = { frame: 0, colouring: data.colourings[0], together: false, timer: null };
  var stage, component, shown;

  function fail(reason) {
    view.dataset.state = "failed";
    var note = document.getElementById("viewer-note");
    note.textContent = "The interactive view cannot be drawn here (" + reason + "); the pictures show the same " +
      "samples.";
    note.hidden = false;
    view.hidden = true;
  }

  // Every conformation as an entry of an SD file, the one format that gives bonds of each
  function entries() {
    var three = function (number) { return String(number).padStart(3); };
    return data.frames.map(function (frame, index) {
      var bonds = frame.bonds || data.bonds;
      var lines = ["conformation " + (index + 1), "", "", three(nAtoms) + three(Math.min(bonds.length, 999)) +
        "  0  0  0  0  0  0  0  0999 V2000"];
      for (var atom = 0; atom < nAtoms; atom++) {
        // the viewer looks along z from behind: half a turn shows the side that the pictures show
        var xyz = [-frame.x[3 * atom], frame.x[3 * atom + 1], -frame.x[3 * atom + 2]].map(function (value) {
          return (value / 1000).toFixed(4).padStart(10);
        });
        lines.push(xyz.join("") + " " + data.symbols[atom].padEnd(3) + " 0  0  0  0  0  0  0  0  0  0  0  0");
      }
      bonds.slice(0, 999).forEach(function (pair) {
        lines.push(three(pair[0] + 1) + three(pair[1] + 1) + "  1  0");
      });
      return lines.concat("M  END", "$$$$", "").join("\n");
    }).join("");
  }

  function colour(atom) {
    var frame = Math.floor(atom.index / nAtoms), found = state.colouring.colours[frame];
    return parseInt((Array.isArray(found) ? found[atom.index % nAtoms] : found).slice(1), 16);
  }

  function draw(NGL) {
    var scheme = "element";
    if (state.colouring.colours) {
      scheme = NGL.ColormakerRegistry.addScheme(function () { this.atomColor = colour; });
    }
    component.removeAllRepresentations();
    var common = { color: scheme, multipleBond: "off", sele: selection() };
    if (data.cluster) {
      shown = state.together
        ? component.addRepresentation("spacefill", Object.assign(common, { radiusType: "size", radiusSize: 0.3 }))
        : component.addRepresentation("ball+stick", Object.assign(common, { radiusType: "size", radiusSize: 0.2,
          aspectRatio: 5.5 }));
    } else {
      shown = state.together
        ? component.addRepresentation("licorice", Object.assign(common, { radiusType: "size", radiusSize: 0.07 }))
        : component.addRepresentation("ball+stick", Object.assign(common, { radiusType: "size", radiusSize: 0.14,
          aspectRatio: 2.2 }));
    }
  }

  function selection() {
    if (!state.together) { return "/" + state.frame; }
    return data.cluster ? "all" : "not _H";
  }

  function describe() {
    part("frame").value = state.frame + 1;
    part("frame").disabled = part("play").disabled = state.together;
    part("caption").textContent = state.together
      ? nFrames + " conformations" + (data.cluster ? "" : ", without hydrogens")
      : (state.frame + 1) + " of " + nFrames + ": " + data.frames[state.frame].caption;
    var legend = part("legend");
    legend.replaceChildren.apply(legend, state.colouring.legend.map(function (entry) {
      var item = document.createElement("li"), swatch = document.createElement("span");
      swatch.style.background = entry[0];
      item.append(swatch, entry[1]);
      return item;
    }));
  }

  function go(frame) {
    state.frame = (frame + nFrames) % nFrames;
    if (shown && !state.together) { shown.setSelection(selection()); }
    describe();
  }

  function play(wanted) {
    clearInterval(state.timer);
    state.timer = wanted ? setInterval(function () { go(state.frame + 1); }, 500) : null;
    part("play").textContent = wanted ? "Pause" : "Play";
  }

  function zoom(step) { stage.viewerControls.zoom(step); }

  // Ångström from the middle within which nearly all atoms of all conformations are
  function radius() {
    var apart = [];
    data.frames.forEach(function (frame) {
      for (var k = 0; k < 3 * nAtoms; k += 3) {
        apart.push(Math.hypot(frame.x[k], frame.x[k + 1], frame.x[k + 2]) / 1000);
      }
    });
    apart.sort(function (a, b) { return a - b; });
    return apart[Math.floor(0.99 * (apart.length - 1))] + (data.cluster ? 1.2 : 0.5);
  }

  function centre() {
    var box = part("stage").getBoundingClientRect();
    var half = stage.getParameters().cameraFov * Math.PI / 360; // of the angle of view
    component.autoView();
    stage.viewerControls.distance(-radius() * Math.max(1, box.height / box.width) / Math.tan(half));
  }

  function listen(NGL) {
    part("play").onclick = function () { play(state.timer === null); };
    part("frame").oninput = function () { play(false); go(Number(this.value) - 1); };
    part("colour").onchange = function () {
      state.colouring = data.colourings[Number(this.value)];
      draw(NGL);
      describe();
    };
    part("together").onchange = function () {
      state.together = this.checked;
      play(false);
      draw(NGL);
      describe();
    };
    part("spin").onclick = function () {
      var wanted = this.getAttribute("aria-pressed") !== "true";
      this.setAttribute("aria-pressed", String(wanted));
      stage.setSpin(wanted);
    };
    part("nearer").onclick = function () { zoom(0.15); };
    part("farther").onclick = function () { zoom(-0.15); };
    part("reset").onclick = centre;
    new ResizeObserver(function () { stage.handleResize(); }).observe(part("stage"));
  }

  // The viewer's own code, a megabyte, is unpacked and run only now; the page's policy allows it by its hash
  function unpack() {
    var packed = atob(document.getElementById("viewer-library").textContent);
    var bytes = Uint8Array.from(packed, function (letter) { return letter.charCodeAt(0); });
    var stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Response(stream).text().then(function (source) {
      var script = document.createElement("script");
      script.textContent = source;
      document.head.append(script);
      return self.bgdiffNGL();
    });
  }

  function start(NGL) {
    stage = new NGL.Stage(part("stage"), { backgroundColor: "white", tooltip: false, hoverTimeout: -1,
      cameraType: "orthographic", clipNear: 0, clipFar: 100, clipDist: 0, clipMode: "scene" });
    // scrolling is for the page
    ["scroll", "scroll-ctrl", "scroll-shift", "scroll-alt"].forEach(function (trigger) {
      stage.mouseControls.remove(trigger);
    });
    return stage.loadFile(new Blob([entries()]), { ext: "sdf", name: "conformations" }).then(function (loaded) {
      component = loaded;
      draw(NGL);
      centre();
      listen(NGL);
      describe();
      stage.viewer.signals.rendered.addOnce(function () { view.dataset.state = "drawn"; });
      stage.viewer.requestRender();
    });
  }

  data.colourings.forEach(function (colouring, index) { part("colour").add(new Option(colouring.name, index)); });
  part("frame").max = nFrames;
  if (!self.DecompressionStream) {
    fail("this browser is from before 2023");
    return;
  }
  view.hidden = false;
  describe();
  var seen = new IntersectionObserver(function (entries) {
    if (!entries.some(function (entry) { return entry.isIntersecting; })) { return; }
    seen.disconnect();
    // asked only now: a first WebGL context can take a second
    var canvas = document.createElement("canvas");
    if (!canvas.getContext("webgl2") && !canvas.getContext("webgl")) {
      fail("this browser has no WebGL");
      return;
    }
    unpack().then(start).catch(function (error) { fail(error.message); });
  }, { rootMargin: "400px" });
  seen.observe(view);
})();
